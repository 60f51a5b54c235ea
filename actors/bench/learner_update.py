"""One whole update of the learner engine against a plain loop on the same responses.

The plain loop is what a user would write: transformers on padded responses, torch's AdamW, old log-probabilities
first. Both run alone in a process of their own, in float32 on all cores, and the wall clock counts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from actors.bench.doubles import make_report, make_scored
from actors.bench.lines import BenchLine, compare
from actors.bench.memory import watch_peak
from actors.bench.models import random_qwen3, random_smollm2
from actors.engines.deepspeed.config import import_deepspeed
from actors.engines.deepspeed.engine import DeepSpeedEngine
from actors.ray.on_node import free_port
from maspo_dist.config import TrainConfig
from maspo_dist.data.batching import lay_out_batch
from maspo_dist.demo.model import make_model, make_tokenizer
from maspo_dist.types import IntArray, Prompt, Rollout, RolloutGroup

#: Tokens of a micro-batch, where the case does not compare them.
_BUDGET = 8192
_BUDGETS = (1024, 4096, 16_384)
_LR = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """`responses` in tokens, `samples` of them per prompt; `padded` of them in one forward of the plain loop.

    repeats   updates; the fastest counts
    """

    name: str
    model: Callable[[], PreTrainedModel]
    prompt_tokens: int
    responses: tuple[int, ...]
    samples: int
    mini_batches: int
    padded: int
    repeats: int = 3

    @property
    def tokens(self) -> int:
        return len(self.responses) * self.prompt_tokens + sum(self.responses)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cost:
    seconds: float
    peak_bytes: int


def _demo() -> PreTrainedModel:
    return make_model(make_tokenizer(), 0)


def _long_tailed() -> PreTrainedModel:
    return random_qwen3(8192, layers=6, width=1024)


def _uniform(count: int, low: int, high: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(0).integers(low, high, count, endpoint=True).tolist())


_DEMO = _Case(
    name="demo",
    model=_demo,
    prompt_tokens=8,
    responses=_uniform(512, 18, 33),
    samples=8,
    mini_batches=4,
    padded=128,
    repeats=15,
)
_CASES = (
    _DEMO,
    _Case(
        name="SmolLM2-135M's shape",
        model=random_smollm2,
        prompt_tokens=70,
        responses=_uniform(16, 70, 128),
        samples=4,
        mini_batches=2,
        padded=8,
    ),
    _Case(
        name="long-tailed lengths, 100M parameters",
        model=_long_tailed,
        prompt_tokens=64,
        # Quantiles of a lognormal distribution of median 700, in random order.
        responses=(540, 8100, 169, 1530, 900, 60, 2900, 320),
        samples=1,
        mini_batches=2,
        # Two of the longest fill 16 GiB with activations.
        padded=2,
        repeats=1,
    ),
)


def run() -> Iterator[BenchLine]:
    """A line per case; then speed and peak memory per budget of micro-batches. Takes about a quarter of an hour."""
    # transformers would import it on its own terms, at the first save.
    import_deepspeed(torch.device("cpu"))
    disable_progress_bar()
    with TemporaryDirectory() as name:
        folder = Path(name)
        for case in _CASES:
            case.model().save_pretrained(folder / case.name)
            ours, plain = (_alone(way, case, folder / case.name, _BUDGET) for way in (_engine_cost, _plain_cost))
            label = (
                f"update, {case.name}, {case.tokens} tokens in {case.mini_batches} optimizer steps, against a plain "
                f"padded loop; peak memory {ours.peak_bytes >> 20} MiB against {plain.peak_bytes >> 20} MiB"
            )
            yield compare("learner", label, case.tokens / ours.seconds, "tokens/s", case.tokens / plain.seconds)
        yield from _budgets(folder / _DEMO.name)


def _budgets(model: Path) -> Iterator[BenchLine]:
    """The demo's batch as one optimizer step, so that it fills the largest budget too."""
    case = replace(_DEMO, mini_batches=1)
    costs = [_alone(_engine_cost, case, model, budget) for budget in _BUDGETS]
    small, middle = costs[0], costs[1]
    per_token = (middle.peak_bytes - small.peak_bytes) / (_BUDGETS[1] - _BUDGETS[0])
    for budget, cost in zip(_BUDGETS, costs, strict=True):
        label = f"update, demo in one optimizer step, micro-batches of {budget} tokens"
        speeds = case.tokens / cost.seconds, case.tokens / small.seconds
        yield compare("learner", f"{label}: speed against {_BUDGETS[0]} tokens", speeds[0], "tokens/s", speeds[1])
        line = small.peak_bytes + per_token * (budget - _BUDGETS[0])
        label += f": peak memory, on the line through {_BUDGETS[0]} and {_BUDGETS[1]} tokens against measured"
        yield compare("learner", label, line / 2**20, "MiB", cost.peak_bytes / 2**20)


def _alone(way: Callable[[_Case, Path, int], _Cost], case: _Case, model: Path, budget: int) -> _Cost:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(way, case, model, budget).result()


def _engine_cost(case: _Case, model: Path, budget: int) -> _Cost:
    tree = {
        "run": {"name": "bench", "max_steps": 100},
        "model": {"path": str(model), "dtype": "float32", "device": "cpu"},
        "data": {"train": ["unused.jsonl"]},
        "rollout": {"prompts_per_step": len(case.responses) // case.samples, "max_response_tokens": 8192},
        "learner": {"lr": _LR, "micro_batch_tokens": budget},
    }
    engine = DeepSpeedEngine(TrainConfig.model_validate(tree), "cpu", 0, 1, f"tcp://127.0.0.1:{free_port()}")
    groups = _groups(case)
    scored = [
        make_scored(
            make_report(group.group_id, case.prompt_tokens, [r.response_ids.size for r in group.rollouts]),
            np.resize(np.array([1, -1], np.float32), case.samples),
        )
        for group in groups
    ]
    batch = lay_out_batch(1, scored, mini_batches=case.mini_batches, ranks=1, micro_batch_tokens=budget)
    bodies = {group.group_id: group for group in groups}
    return _fastest(
        lambda: engine.update(batch.shards[0], batch.loss_tokens, batch.loss_sequences, bodies), case.repeats
    )


def _plain_cost(case: _Case, path: Path, _: int) -> _Cost:
    torch.set_num_threads(os.cpu_count() or 1)
    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LR)
    sequences = [(group.prompt.token_ids, r.response_ids) for group in _groups(case) for r in group.rollouts]
    per_step = len(sequences) // case.mini_batches

    def update() -> None:
        steps = [
            [_padded(sequences[at : at + case.padded]) for at in range(first, first + per_step, case.padded)]
            for first in range(0, len(sequences), per_step)
        ]
        with torch.no_grad():
            old = [[_plain_logprobs(model, ids, mask) for ids, mask in step] for step in steps]
        for step, olds in zip(steps, old, strict=True):
            optimizer.zero_grad()
            for (ids, mask), logprobs in zip(step, olds, strict=True):
                ratio = torch.exp(_plain_logprobs(model, ids, mask) - logprobs)
                loss = -(ratio * mask[:, 1:]).sum() / sum(int(other.sum()) for _, other in step)
                torch.autograd.backward([loss])
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    return _fastest(update, case.repeats)


def _padded(sequences: Sequence[tuple[IntArray, IntArray]]) -> tuple[Tensor, Tensor]:
    """ids and mask of tokens that are not padding, i64[B, T]."""
    whole = [torch.from_numpy(np.concatenate(pair).astype(np.int64)) for pair in sequences]
    ids = torch.nn.utils.rnn.pad_sequence(whole, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(tokens) for tokens in whole], batch_first=True)
    return ids, mask


def _plain_logprobs(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Tensor:
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    logprobs: Tensor = torch.log_softmax(logits.float(), -1).gather(-1, ids[:, 1:, None])[..., 0]
    return logprobs


def _groups(case: _Case) -> list[RolloutGroup]:
    """Random tokens, the same at each call."""
    rng = np.random.default_rng(0)

    def rollout(tokens: int) -> Rollout:
        return Rollout(
            response_ids=rng.integers(5, 90, tokens).astype(np.int32),
            behavior_logprobs=np.full(tokens, -3.0, np.float32),
            text="",
            finish_reason="stop",
            token_versions=((0, tokens),),
        )

    groups = []
    for number in range(len(case.responses) // case.samples):
        ids = rng.integers(5, 90, case.prompt_tokens).astype(np.int32)
        lengths = case.responses[number * case.samples : (number + 1) * case.samples]
        prompt = Prompt(prompt_id=str(number), token_ids=ids, reference="", source="bench")
        rollouts = tuple(map(rollout, lengths))
        groups.append(RolloutGroup(group_id=number, prompt=prompt, rollouts=rollouts))
    return groups


def _fastest(update: Callable[[], object], repeats: int) -> _Cost:
    """The fastest update, and the highest peak of memory above what the process held before the first."""
    seconds, peak = [], watch_peak()
    for _ in range(repeats):
        started_s = time.perf_counter()
        update()
        seconds.append(time.perf_counter() - started_s)
    return _Cost(seconds=min(seconds), peak_bytes=peak())
