"""Seconds per phase of a real run's steps, and how much of each phase vLLM and the model need.

A run trains the demo on the CPU by `configs/local_smoke.yaml`. Its learning rate is too small to change a response, so
bare engines of vLLM sample the same responses to the same requests. A phase needs

    generate  what bare engines take, one process each, side by side
    update    the forwards, backwards and optimizer steps of the learner
    publish   loading the weights into the engines

The rest is the loop's own: scoring, layout, messages, proofs, files.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from actors.bench.lines import BenchLine, compare
from actors.engines.settings import engine_environment
from maspo_dist.config import TrainConfig, load_config
from maspo_dist.data.cursor import PromptCursor
from maspo_dist.demo.files import make_demo
from maspo_dist.flow.seeds import group_seed
from maspo_dist.planning.preflight import prepare
from maspo_dist.types import RolloutRequest, Sampling

T = TypeVar("T")

_CONFIG = Path("configs/local_smoke.yaml")
_STEPS = 12
#: Steps and rounds that warm up; the median of the others counts.
_WARM_UP = 2
_RUN_S, _SAMPLE_S = 600.0, 300.0


def run() -> Iterator[BenchLine]:
    """A line per phase and one for the whole step: needed seconds against seconds taken. Takes about three minutes."""
    demo = make_demo()
    with TemporaryDirectory() as folder:
        overrides = [
            f"run.dir={folder}",
            "run.name=step",
            f"run.max_steps={_STEPS}",
            f"model.path={demo.model}",
            f"data.train=[{demo.train}]",
            "data.eval={}",
            "learner.lr=1e-12",
            "evaluation.every=null",
            "checkpoint.every=null",
        ]
        config = load_config(_CONFIG, overrides)
        steps = _steps_of_a_run(overrides, Path(folder) / "step" / "metrics.jsonl")
        bare_s = _bare_seconds(config)
    yield from _lines(steps, bare_s)


def _lines(steps: Sequence[Mapping[str, float]], bare_s: float) -> Iterator[BenchLine]:
    """`steps` are rows of metrics.jsonl; `bare_s` is what bare engines take for the responses of one step."""

    def median(*names: str) -> float:
        return statistics.median(sum(step[name] for name in names) for step in steps)

    learner_s = statistics.median(step["learner/tokens"] / step["learner/tokens_per_s"] for step in steps)
    phases = {
        "generate and verify": (bare_s, median("time/generate_s", "time/verify_s")),
        "update": (learner_s, median("time/update_s")),
        "publish": (median("sync/pause_s"), median("time/publish_s")),
    }
    step = (sum(needed_s for needed_s, _ in phases.values()), median("time/step_s"))
    for phase, (needed_s, taken_s) in {**phases, "whole step": step}.items():
        case = f"demo, {phase}: {taken_s:.2f} s; vLLM and the model alone, against the phase"
        yield compare("step", case, needed_s, "s", taken_s)


def _steps_of_a_run(overrides: Sequence[str], metrics_path: Path) -> list[dict[str, float]]:
    command = [sys.executable, "-m", "actors.cli", "train", str(_CONFIG), *overrides]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=_RUN_S)
    rows = [json.loads(line) for line in metrics_path.read_text(encoding="utf-8").splitlines()]
    return rows[_WARM_UP:]


def _bare_seconds(config: TrainConfig) -> float:
    """Median seconds of bare engines for a step's requests, dealt out over the workers of `config`."""
    os.environ.update(engine_environment("cpu", 1), VLLM_LOGGING_LEVEL="ERROR")
    workers = config.rollout.workers
    assert isinstance(workers, int)
    context = get_context("spawn")
    with ExitStack() as stack:
        engines = [
            stack.enter_context(ProcessPoolExecutor(1, context, initializer=_start, initargs=(config, index, workers)))
            for index in range(workers)
        ]
        seconds = []
        for number in range(_STEPS):
            started_s = time.perf_counter()
            for future in [engine.submit(_sample, number) for engine in engines]:
                future.result(_SAMPLE_S)
            seconds.append(time.perf_counter() - started_s)
        for engine in engines:
            engine.submit(_close).result(_SAMPLE_S)
    return statistics.median(seconds[_WARM_UP:])


class _Bare:
    """The bare engine of this process, and its share of each step's requests."""

    def __init__(self, config: TrainConfig, index: int, workers: int) -> None:
        # Imports vLLM, which reads the environment.
        from actors.bench.vllm_direct import DirectEngine

        self._runner = asyncio.Runner()
        self._engine = self._runner.run(_made(DirectEngine, config.model.path, config.rollout.engine["max_model_len"]))
        groups = config.rollout.prompts_per_step
        requests = _requests(config, _STEPS * groups)
        self._steps = [requests[start : start + groups][index::workers] for start in range(0, len(requests), groups)]

    def sample(self, number: int) -> None:
        self._runner.run(self._engine.sample(self._steps[number]))

    def close(self) -> None:
        self._engine.close()
        self._runner.close()


async def _made(make: Callable[[str, int], T], model: str, max_model_len: int) -> T:
    """An engine belongs to the event loop that it is made in."""
    return make(model, max_model_len)


_bare: list[_Bare] = []


def _start(config: TrainConfig, index: int, workers: int) -> None:
    _bare.append(_Bare(config, index, workers))


def _sample(number: int) -> None:
    _bare[0].sample(number)


def _close() -> None:
    _bare.pop().close()


def _requests(config: TrainConfig, count: int) -> list[RolloutRequest]:
    """The first `count` requests of a run with `config`."""
    cursor = PromptCursor(prepare(config).train.prompts, config.run.seed)
    sampling = Sampling(temperature=config.rollout.temperature, max_response_tokens=config.rollout.max_response_tokens)
    return [
        RolloutRequest(
            group_id=number,
            prompt=prompt,
            num_samples=config.rollout.group_size,
            seed=group_seed(config.run.seed, number),
            sampling=sampling,
        )
        for number, prompt in enumerate(cursor.take(count))
    ]
