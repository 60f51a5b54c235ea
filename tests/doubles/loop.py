"""Fakes of engine, scorer and pool, and the real loop over fakes: deterministic, without processes or waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from actors.bench.doubles import (
    FakeLearners,
    FakePrompts,
    fake_decode,
    make_config,
    make_prompt,
    make_publish_report,
    make_result,
    make_snapshot,
    make_verdict,
)
from actors.controller.controller import Controller
from actors.controller.evaluator import Evaluator
from actors.controller.group_stream import GroupStream
from actors.controller.publisher import Publisher
from actors.controller.session import Session
from actors.controller.turns import DeviceTurns
from actors.interfaces import (
    Body,
    LearnerGroup,
    PublishReport,
    RolloutPool,
    WeightUpdate,
)
from actors.weights.probes import probe_sequences
from doubles.engines import FakeEngine
from maspo_dist.config import TrainConfig, dump_config
from maspo_dist.errors import BodyLostError, StragglerError
from maspo_dist.flow.ledger import Ledger
from maspo_dist.runs.checkpoint import CheckpointStore, CheckpointWriter, FinishedGroup, RunState
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.live import WorkerStatus
from maspo_dist.runs.metrics import MetricSink, open_metrics
from maspo_dist.runs.rows import Event
from maspo_dist.types import GroupReport, RolloutGroup, RolloutRequest, Verdict
from maspo_dist.views.console import RunConsole


class FakeScorer:
    """Rewards even texts."""

    async def score(self, response: str, reference: str, source: str) -> Verdict:
        return make_verdict(float(int(response) % 2 == 0))


class FakePool:
    """Rewards by rule; each group may be held back, to script the order of events."""

    def __init__(self) -> None:
        self.version = 0
        self.requests: list[RolloutRequest] = []
        self.rewards: dict[int, list[float]] = {}
        self.statuses: dict[int, list[str]] = {}
        self.holds: dict[int, asyncio.Event] = {}
        self.failures: dict[int, Exception] = {}
        self.published: list[int] = []
        self.lost_bodies: set[int] = set()
        self.workers = 1

    async def generate(self, request: RolloutRequest) -> tuple[GroupReport, Body]:
        self.requests.append(request)
        version = self.version
        if hold := self.holds.get(request.group_id):
            try:
                async with asyncio.timeout(request.give_up_after_s):
                    await hold.wait()
            except TimeoutError:
                raise StragglerError("held back") from None
        if failure := self.failures.get(request.group_id):
            raise failure
        rewards = self.rewards.get(request.group_id, [float(i % 2) for i in range(request.num_samples)])
        statuses = self.statuses.get(request.group_id, [""] * request.num_samples)
        verdicts = [make_verdict(reward, status) for reward, status in zip(rewards, statuses, strict=True)]
        lengths = range(2, 2 + request.num_samples)
        return make_result(request, version, lengths, verdicts, time.time())

    async def publish(self, update: WeightUpdate) -> PublishReport:
        self.version = update.version
        self.published.append(update.version)
        return make_publish_report(update)

    async def fetch(self, body: Body) -> RolloutGroup:
        assert isinstance(body, RolloutGroup)
        if body.group_id in self.lost_bodies:
            raise BodyLostError(f"object store: the node of group {body.group_id} is gone")
        return body

    def store(self, group: RolloutGroup) -> Body:
        return group

    def last_token_s(self) -> float:
        return 0.0

    def scale(self, workers: int) -> None:
        raise AssertionError("this pool has no workers")

    def status(self) -> tuple[WorkerStatus, ...]:
        return tuple(
            WorkerStatus(
                name=f"rollout worker {index}",
                state="serving",
                version=self.version,
                groups_in_flight=0,
                restarts=0,
                engine=None,
            )
            for index in range(self.workers)
        )


def _note_failure(record: RunFolder) -> Callable[[int, str], None]:
    def note(step: int, reason: str) -> None:
        record.write_event(Event(kind="checkpoint_failed", message=f"step {step}: {reason}"))

    return note


def make_controller(
    config: TrainConfig,
    folder: RunFolder,
    pool: RolloutPool,
    learners: LearnerGroup,
    console: RunConsole,
    *,
    record: RunFolder | None = None,
    make_ledger: Callable[[], Ledger] = Ledger,
    config_yaml: str | None = None,
    clock: Callable[[], float] = time.time,
    more: Sequence[MetricSink] = (),
    turns: DeviceTurns | None = None,
) -> Controller:
    """The real loop over doubles and a real run folder, which is also the record unless one is given.

    The metrics go to the sinks of `config`, and to `more`.
    """
    kept = record or folder

    def session(state: RunState | None, finished: Sequence[FinishedGroup[RolloutGroup]]) -> Session:
        ledger = make_ledger()
        stream = GroupStream(
            config,
            pool,
            FakePrompts(state.stream.cursor if state else None),
            ledger,
            batches=config.run.max_steps - (state.step if state else 0),
            on_progress=lambda _: None,
            on_event=kept.write_event,
            restored=state.stream if state else None,
            finished=finished,
        )
        return Session(stream=stream, ledger=ledger, metrics=open_metrics(folder, config.logging, {}, more=more))

    checkpoints = CheckpointStore(folder.checkpoints_path)

    return Controller(
        config=config,
        pool=pool,
        learners=learners,
        sessions=session,
        evaluator=Evaluator(config, pool, {"held_out": [make_prompt(1001), make_prompt(1002)]}, kept.write_event),
        checkpoints=checkpoints,
        writer=CheckpointWriter(
            checkpoints, config.checkpoint, config_yaml or dump_config(config), _note_failure(kept)
        ),
        publisher=Publisher(
            config=config,
            pool=pool,
            learners=learners,
            prompts=probe_sequences([[1, 2, 3]], 1, 3),
            tokens=64,
            turns=turns,
        ),
        hidden=128,
        decode=fake_decode,
        record=kept,
        console=console,
        clock=clock,
    )


__all__ = [
    "FakeEngine",
    "FakeLearners",
    "FakePool",
    "FakePrompts",
    "FakeScorer",
    "make_config",
    "make_controller",
    "make_prompt",
    "make_snapshot",
]
