"""Whole runs of `configs/gpu_smoke.yaml`: strictly on-policy, asynchronous, and in turns on one GPU.

A rollout worker of the asynchronous run is killed. At full scale a second run in turns loses its worker, too. In the
other runs no publish may fall back to the object store.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from actors.bench.gpu.result import Figure, Limit, Measured
from actors.bench.gpu.setting import Setting
from actors.bench.gpu.workplace import Workplace
from maspo_dist.demo import DemoFiles, DemoRecipe, WarmStart, make_demo
from maspo_dist.errors import ConfigError, DeadlineError
from maspo_dist.runs.folder import RunFolder

_CONFIG = Path(__file__).parents[3] / "configs" / "gpu_smoke.yaml"
#: Sums of two digits, a few seconds of warm start: some problems come out right, so that groups have gradients.
_TINY_DEMO = DemoRecipe(
    train_problems=32,
    heldout_problems=8,
    digits=(1, 1),
    warm_start=WarmStart(accuracy_band=(0.0, 1.0), batch_size=16, first_check_step=50, max_steps=50),
)
_TINY = (
    "rollout.prompts_per_step=16",
    "rollout.max_response_tokens=20",
    "algorithm.mini_batches=2",
    "learner.lr=1e-3",
)
_ON_CPU = ("model.device=cpu", "model.dtype=float32", "learner.threads=1")
_AGES = (0, 2)
_RUN_S = 900.0
_ROLLOUT_WORKER = "ray::RolloutActor"


def measure(place: Workplace) -> Measured:
    """Runs whose engines and learners have GPUs of their own. At tiny scale, the run with the kill alone."""
    ages = _AGES[-1:] if place.setting.is_tiny else _AGES
    return _measure(
        place, {f"age_{age}": (f"algorithm.max_policy_age={age}",) for age in ages}, killed=f"age_{_AGES[-1]}"
    )


def measure_turns(place: Workplace) -> Measured:
    """A run whose engine and learner take turns on one GPU; at full scale also such a run whose worker is killed."""
    turns = ("algorithm.max_policy_age=0", "cluster.layout=colocated")
    runs = ("turns",) if place.setting.is_tiny else ("turns", "turns_killed")
    return _measure(place, dict.fromkeys(runs, turns), killed="turns_killed")


def _measure(place: Workplace, runs: Mapping[str, Sequence[str]], killed: str) -> Measured:
    """Exit codes, events and the metrics of the last step of `runs`, which are overrides by name."""
    setting = place.setting
    if not _CONFIG.is_file():
        raise ConfigError(f"{_CONFIG} does not exist: run this check from a checkout of the project")
    demo = make_demo(place.folder / "demo", 0, _TINY_DEMO if setting.is_tiny else None)
    figures: dict[str, Figure] = {}
    limits: list[Limit] = []
    for run, overrides in runs.items():
        is_killing = run == killed
        figures |= {f"{run}_{name}": value for name, value in _train(place, demo, run, overrides, is_killing).items()}
        limits += [
            Limit(figure=f"{run}_exit_code", most=0, least=0),
            Limit(figure=f"{run}_steps", least=setting.scale.run_steps),
            Limit(figure=f"{run}_workers_recovered", least=int(is_killing)),
        ]
        if not is_killing:
            # The run would go on through the object store.
            limits.append(Limit(figure=f"{run}_transfers_failed", most=0))
    return Measured(figures=figures, limits=tuple(limits))


def _train(
    place: Workplace, demo: DemoFiles, name: str, overrides: Sequence[str], is_killing: bool
) -> Mapping[str, Figure]:
    folder = RunFolder(place.folder / name)
    command = [sys.executable, "-m", "actors.cli", "train", str(_CONFIG)]
    command += [*_overrides(place.setting, demo, place.folder, name), *overrides]
    run = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    deadline_s = time.monotonic() + _RUN_S
    try:
        if is_killing:
            _wait_for_step(run, folder, deadline_s)
            for worker in _workers(run.pid)[:1]:
                worker.kill()
        exit_code = run.wait(max(1.0, deadline_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise DeadlineError(f"the run with {' '.join(overrides)} did not end within {_RUN_S:g} s") from None
    finally:
        run.kill()
        run.wait()
    rows = [row for row in folder.read_metrics() if row["step"] > 0]
    last = rows[-1] if rows else {}
    kinds = [event["kind"] for event in folder.read_events()]
    kept = ("time/step_s", "time/generate_s", "time/update_s", "time/publish_s", "reward/mean", "policy/age_max")
    return {
        "exit_code": exit_code,
        "steps": len(rows),
        "workers_recovered": kinds.count("worker_recovered"),
        "transfers_failed": kinds.count("broadcast_failed") + kinds.count("ipc_failed"),
        "max_logprob_gap": max((row["sync/max_logprob_gap"] for row in rows), default=None),
        **{metric.replace("/", "_"): last.get(metric) for metric in kept},
    }


def _overrides(setting: Setting, demo: DemoFiles, folder: Path, name: str) -> list[str]:
    return [
        f"run.dir={folder}",
        f"run.name={name}",
        f"run.max_steps={setting.scale.run_steps}",
        f"model.path={demo.model}",
        f"data.train=[{demo.train}]",
        "data.eval={}",
        # What real runs take: NCCL, or CUDA's IPC in turns.
        "sync.transport=auto",
        "checkpoint.every=null",
        "evaluation.every=null",
        "cluster.heartbeat_s=1",
        "cluster.restart_backoff_s=0",
        *(_TINY if setting.is_tiny else ()),
        *(_ON_CPU if setting.device == "cpu" else ()),
    ]


def _wait_for_step(run: subprocess.Popen[bytes], folder: RunFolder, deadline_s: float) -> None:
    """Returns at the first finished step, or when the run has ended."""
    while run.poll() is None and not any(row["step"] > 0 for row in folder.read_metrics()):
        if time.monotonic() > deadline_s:
            raise subprocess.TimeoutExpired(run.args, _RUN_S)
        time.sleep(0.1)


def _workers(pid: int) -> list[psutil.Process]:
    """The rollout workers of the run; none if it has ended."""
    try:
        processes = psutil.Process(pid).children(recursive=True)
        return [process for process in processes if any(_ROLLOUT_WORKER in part for part in process.cmdline())]
    except psutil.NoSuchProcess:
        return []
