"""Run folders to test with: an empty one, and ones as a real run leaves them, made from a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.rows import Event, SampleRow
from maspo_dist.types import LedgerRow

BUCKETS = (1e-4, 1e-2, 0.1, 0.5, 0.9, 1.0)
BUCKET_NAMES = ("1e-4", "1e-2", "0.1", "0.5", "0.9", "1")
BUCKET_SHARES = (0.002, 0.018, 0.05, 0.13, 0.2, 0.6)

CONFIG = """\
run:
  name: {name}
  max_steps: {steps}
  seed: {seed}
algorithm:
  loss:
    kind: {loss}
    alpha: 0.3
learner:
  ranks: 2
  zero_stage: 2
  lr: 0.0003
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    """An empty run folder, open for writing."""
    with RunFolder.create(tmp_path / "run") as folder:
        folder.write_config("run: {}\n")
        yield folder


@pytest.fixture
def finished_run() -> Callable[..., RunFolder]:
    """`write_run`, for tests to call."""
    return write_run


def write_run(path: Path, steps: int = 60, seed: int = 0, loss: str = "maspo", speed: float = 1.0) -> RunFolder:
    """A finished run of `steps`; `speed` is how fast it learns. The folder comes back closed."""
    rng = random.Random(seed)
    with RunFolder.create(path) as folder:
        folder.write_config(CONFIG.format(name=path.name, steps=steps, seed=seed, loss=loss))
        folder.write_event(Event(kind="resumed", message=f"run {path.name} starts", time=1.7e9))
        for step in range(steps + 1):
            progress = 1 - math.exp(-2.2 * speed * step / max(1, steps))
            folder.write_metrics(step, step_metrics(rng, step, steps, progress))
            if step > 0:
                write_step_rows(folder, rng, step, progress)
        folder.write_event(
            Event(
                kind="worker_lost",
                message="rollout-1 was killed; 12 requests sent again",
                details=(("worker", "rollout-1"), ("recovery_s", 14.2)),
                time=1.7e9 + 90,
            )
        )
        pending = LedgerRow(
            group_id=10**6, prompt_id="add-pending", step=steps, outcome="pending", reason="the run ended"
        )
        folder.write_ledger([pending])
    return folder


def step_metrics(rng: random.Random, step: int, steps: int, progress: float) -> dict[str, float | None]:
    metrics: dict[str, float | None] = {}
    if step % 10 == 0 or step == steps:
        metrics["eval/add/avg@1"] = 0.36 + 0.33 * progress + rng.gauss(0, 0.01)
        metrics["eval/carry/avg@4"] = 0.22 + 0.21 * progress + rng.gauss(0, 0.01)
        metrics["eval/carry/pass@4"] = 0.41 + 0.26 * progress + rng.gauss(0, 0.01)
    if step == 0:
        return metrics
    generate, verify, update, publish = (rng.uniform(0.85, 1.15) * s for s in (0.8, 0.12, 0.7, 0.2))
    metrics |= {
        "reward/mean": 0.3 + 0.35 * progress + rng.gauss(0, 0.025),
        "reward/unverifiable_share": max(0.0, rng.gauss(0.001, 0.001)),
        "rollout/tokens_per_s": 6900 * rng.uniform(0.9, 1.1),
        "rollout/response_tokens_mean": 21 + 4 * progress + rng.gauss(0, 0.4),
        "rollout/truncated_share": max(0.0, 0.05 - 0.045 * progress + rng.gauss(0, 0.004)),
        "learner/tokens_per_s": 21000 * rng.uniform(0.9, 1.1),
        "learner/grad_norm": None if step == 17 else 0.4 * math.exp(rng.gauss(0, 0.25)),
        "policy/age_mean": 0.0,
        "policy/age_max": 0.0,
        "policy/entropy": 0.32 - 0.15 * progress + rng.gauss(0, 0.008),
        "policy/kl_k1": 0.0035 + 0.003 * rng.random(),
        "policy/kl_k3": 0.004 + 0.003 * rng.random(),
        "ratio/mean": 1 + rng.gauss(0, 0.002),
        "ratio/min": 0.7 - 0.3 * rng.random(),
        "ratio/max": 1.5 + rng.expovariate(1.2),
        "gate/mean": 0.995 - 0.004 * rng.random(),
        "gate/share_below_0.99": 0.05 + 0.03 * rng.random(),
        "gate/share_below_0.5": 0.01 + 0.005 * rng.random(),
        "gate/share_mass_at_sigma_base": 0.3 + 0.1 * rng.random(),
        "gate/share_mass_at_sigma_max": 0.002 * rng.random(),
        "gate/share_risk_at_min": 0.0,
        "gate/share_risk_at_max": 0.0,
        "gradient/weight_kept": 0.985 - 0.005 * rng.random(),
        "gradient/weight_kept_by_ppo_clip": 0.93 - 0.02 * rng.random(),
        "gradient/share_cut_by_ppo_clip": 0.04 + 0.02 * rng.random(),
        "gradient/weight_lost": 0.0005,
        "gradient/rare_positive_cut_by_ppo_clip": 0.015,
        "sync/max_logprob_gap": 1e-6 * math.exp(rng.gauss(0, 0.6)),
        "time/step_s": generate + verify + update + publish + 0.05,
        "time/generate_s": generate,
        "time/verify_s": verify,
        "time/update_s": update,
        "time/publish_s": publish,
    }
    for end, ratio in (("max", metrics["ratio/max"]), ("min", metrics["ratio/min"])):
        metrics |= {
            f"ratio/{end}_token/ratio": ratio,
            f"ratio/{end}_token/old_probability": 0.0123,
            f"ratio/{end}_token/advantage": -1.25,
            f"ratio/{end}_token/gate": 0.5,
            f"ratio/{end}_token/token_id": 4321.0,
            f"ratio/{end}_token/position": 17.0,
            f"ratio/{end}_token/group_id": 99.0,
        }
    return metrics | trust_region_metrics(rng, progress)


def trust_region_metrics(rng: random.Random, progress: float) -> dict[str, float | None]:
    metrics: dict[str, float | None] = {}
    positive_share = 0.35 + 0.2 * progress
    for sign, sign_share in (("pos", positive_share), ("neg", 1 - positive_share)):
        for upper, name, share in zip(BUCKETS, BUCKET_NAMES, BUCKET_SHARES, strict=True):
            # Rare tokens move most; mass widens their gate, so that they are not cut all the same.
            rare = -math.log10(upper) / 4
            below_99 = min(1.0, 0.05 * (1 + rare) ** 2 * rng.uniform(0.8, 1.2))
            if name == "1e-4" and rng.random() < 0.2:
                metrics[f"trust_region/{sign}/{name}/token_share"] = 0.0
                continue
            metrics |= {
                f"trust_region/{sign}/{name}/token_share": sign_share * share,
                f"trust_region/{sign}/{name}/ratio_mean": 1 + (0.08 if sign == "pos" else -0.05) * rare**2,
                f"trust_region/{sign}/{name}/gate_mean": 1 - 0.3 * below_99,
                f"trust_region/{sign}/{name}/share_gate_below_0.99": below_99,
                f"trust_region/{sign}/{name}/share_gate_below_0.5": below_99 / 6,
                f"trust_region/{sign}/{name}/weight_kept": 1 - 0.4 * below_99,
                f"trust_region/{sign}/{name}/share_cut_by_ppo_clip": min(1.0, 2 * below_99),
                f"trust_region/{sign}/{name}/share_mass_at_sigma_base": 1 - rare,
                f"trust_region/{sign}/{name}/share_mass_at_sigma_max": 0.1 if rare == 1 else 0.0,
                f"trust_region/{sign}/{name}/share_risk_at_min": 0.0,
                f"trust_region/{sign}/{name}/share_risk_at_max": 0.0,
                f"trust_region/{sign}/{name}/kl_k3": 0.004 * rare,
                f"trust_region/{sign}/{name}/entropy": 0.1 + rare,
            }
    return metrics


def write_step_rows(folder: RunFolder, rng: random.Random, step: int, progress: float) -> None:
    folder.write_ledger(ledger_rows(rng, step))
    folder.write_samples(
        sample_row(rng, step, group_id, rng.random() < 0.35 + 0.35 * progress)
        for group_id in (step * 64, step * 64 + 1)
        for _ in range(2)
    )


def ledger_rows(rng: random.Random, step: int) -> Iterator[LedgerRow]:
    for group in range(64):
        dropped = rng.random() < 0.2
        reason = rng.choice(("all rewards equal 0", "all rewards equal 1")) if dropped else ""
        outcome = "dropped" if dropped else "trained"
        group_id = step * 64 + group
        yield LedgerRow(group_id=group_id, prompt_id=f"add-{group_id}", step=step, outcome=outcome, reason=reason)


def sample_row(rng: random.Random, step: int, group_id: int, correct: bool) -> SampleRow:
    a, b = rng.randrange(100, 1000), rng.randrange(100, 1000)
    answer = a + b if correct else a + b + rng.choice((-10, 1, 100))
    return SampleRow(
        step=step,
        group_id=group_id,
        prompt_id=f"add-{group_id}",
        source="add",
        prompt=f"{a}+{b}=",
        response=f"{a % 10}+{b % 10}={a % 10 + b % 10}\n{answer}",
        reference=str(a + b),
        reward=float(correct),
        status="correct" if correct else "wrong",
        extracted=str(answer),
        seconds=0.003,
        reason="" if correct else f"{answer} is not {a + b}",
        finish_reason="stop",
    )
