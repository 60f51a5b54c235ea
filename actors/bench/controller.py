"""Cost of the loop over fakes: groups per second of CPU, growth of memory, and overlap of generation and update."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from actors.bench.doubles import FakeLearners, FakePrompts, FakeRecord, FakeWorkers, fake_decode, make_config
from actors.bench.lines import BenchLine, compare
from actors.controller.controller import Controller
from actors.controller.evaluator import Evaluator
from actors.controller.group_stream import GroupStream
from actors.controller.publisher import Publisher
from actors.controller.session import Session
from actors.rollout.pool import ElasticRolloutPool
from maspo_dist.config import TrainConfig
from maspo_dist.flow.ledger import Ledger
from maspo_dist.runs.checkpoint import CheckpointStore, CheckpointWriter, RunState
from maspo_dist.runs.metrics import MetricFanout
from maspo_dist.runs.progress import Progress
from maspo_dist.types import FinishedGroup, RolloutGroup
from maspo_dist.views.console import PlainConsole

_WORKERS = 256
_IN_FLIGHT = 20_000
_GROUPS = 1_000_000
_WANTED_GROUPS_PER_S = 2_000.0
_GENERATE_S, _UPDATE_S = 0.25, 0.2
_OVERLAP_STEPS = 100


def run() -> Iterator[BenchLine]:
    """The lines of the bench. Takes a few minutes."""
    yield from _overlap()
    yield from _throughput()


def _overlap() -> Iterator[BenchLine]:
    """Ideal against measured seconds of 100 steps, where generation and update take known times."""
    for age, ideal_step_s in ((0, _GENERATE_S + _UPDATE_S), (1, max(_GENERATE_S, _UPDATE_S))):
        config = _config(workers=2, per_step=8, group_size=4, age=age, steps=_OVERLAP_STEPS)
        started_s = time.perf_counter()
        asyncio.run(_train(config, _GENERATE_S, _UPDATE_S, FakeRecord()))
        seconds = time.perf_counter() - started_s
        # No update runs beside the first batch, and no generation beside the last update.
        ideal_s = _OVERLAP_STEPS * ideal_step_s + (min(_GENERATE_S, _UPDATE_S) if age else 0.0)
        case = f"overlap: ideal over measured seconds of {_OVERLAP_STEPS} steps, max_policy_age {age}"
        yield compare("controller", case, ideal_s, "s", seconds)


def _throughput() -> Iterator[BenchLine]:
    """Groups per second of one core; and memory after a quarter of the groups, against its peak."""
    per_step = _IN_FLIGHT // 2
    config = _config(workers=_WORKERS, per_step=per_step, group_size=2, age=1, steps=_GROUPS // per_step)
    record = FakeRecord()
    resident: list[int] = []
    started_s = time.process_time()
    asyncio.run(_train(config, 0.0, 0.0, record, resident))
    seconds = time.process_time() - started_s
    case = f"groups per second of CPU, {_WORKERS} workers, {_IN_FLIGHT} groups in flight, {record.ended} groups"
    yield compare("controller", case, record.ended / seconds, "groups/s", _WANTED_GROUPS_PER_S)
    early, late = max(resident[: len(resident) // 4]), max(resident)
    case = f"memory after a quarter of {record.ended} groups over that at its peak ({late / 2**20:.0f} MiB)"
    yield compare("controller", case, early / 2**20, "MiB", late / 2**20)


def _config(*, workers: int, per_step: int, group_size: int, age: int, steps: int) -> TrainConfig:
    return make_config(
        run={"max_steps": steps},
        rollout={"workers": workers, "group_size": group_size, "prompts_per_step": per_step},
        algorithm={"mini_batches": 4, "max_policy_age": age},
        learner={"ranks": 2, "micro_batch_tokens": 8192},
        logging={"tensorboard": False, "sample_groups": 0},
    )


async def _train(
    config: TrainConfig,
    generate_s: float,
    update_s: float,
    record: FakeRecord,
    resident: list[int] | None = None,
) -> None:
    """Runs the real controller, stream, ledger and pool from the first step to the last."""
    rollout = config.rollout
    # The pool generates one batch in `generate_s`.
    at_once = rollout.prompts_per_step // rollout.first_workers
    workers = FakeWorkers(generate_s, at_once)
    pool = ElasticRolloutPool(config, workers, record.write_event)
    sink = _ResidentSink(resident if resident is not None else [])

    def session(state: RunState | None, finished: Sequence[FinishedGroup[RolloutGroup]]) -> Session:
        ledger = Ledger()
        stream = GroupStream(
            config,
            pool,
            FakePrompts(),
            ledger,
            batches=config.run.max_steps,
            on_progress=lambda _: None,
            on_event=record.write_event,
        )
        return Session(stream=stream, ledger=ledger, metrics=MetricFanout([sink], record.write_event))

    with TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere:  # noqa: ASYNC230 (opened once)
        checkpoints, learners = CheckpointStore(Path(folder)), FakeLearners(update_s)
        controller = Controller(
            config=config,
            pool=pool,
            learners=learners,
            sessions=session,
            evaluator=Evaluator(config, pool, {}, lambda _: None),
            checkpoints=checkpoints,
            writer=CheckpointWriter(checkpoints, config.checkpoint, "", _checkpoint_failed),
            publisher=Publisher(config=config, pool=pool, learners=learners, prompts=(), tokens=0),
            hidden=128,
            decode=fake_decode,
            record=record,
            console=PlainConsole("bench", Progress(max_steps=config.run.max_steps), nowhere),
            clock=time.time,
        )
        await pool.start()
        try:
            await controller.run(None)
        finally:
            await pool.stop()


def _checkpoint_failed(step: int, reason: str) -> None:
    raise AssertionError(f"nothing is saved in a bench of the loop: {step}, {reason}")


class _ResidentSink:
    """Appends this process's memory in bytes at each step."""

    def __init__(self, resident: list[int]) -> None:
        self._resident = resident
        self._process = psutil.Process()

    def write(self, step: int, metrics: object) -> None:
        self._resident.append(self._process.memory_info().rss)

    def close(self) -> None:
        pass
