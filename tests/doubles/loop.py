"""Doubles of engine, scorer, pool and learners: deterministic, no processes, no waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from actors.controller.controller import Controller, RunRecord, Session
from actors.controller.evaluator import Evaluator
from actors.controller.group_stream import GroupStream
from actors.interfaces import Body, LearnerGroup, ProbeSequence, PublishReport, RolloutPool, WeightSnapshot
from actors.weights.fingerprint import combine, fingerprint
from actors.weights.probes import probe_sequences
from maspo_dist.config import TrainConfig, dump_config
from maspo_dist.data.cursor import CursorState
from maspo_dist.errors import BodyLostError, StragglerError
from maspo_dist.flow.ledger import Ledger
from maspo_dist.runs.checkpoint import CheckpointStore, FinishedGroup, RunState
from maspo_dist.runs.checkpoint_writer import CheckpointWriter
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.live import WorkerStatus
from maspo_dist.runs.metrics import open_metrics
from maspo_dist.types import (
    Event,
    FloatArray,
    GroupReport,
    IntArray,
    Prompt,
    Rollout,
    RolloutGroup,
    RolloutRequest,
    Sampling,
    TrainingBatch,
    UpdateReport,
    Verdict,
)
from maspo_dist.views.console import RunConsole


def make_config(**sections: object) -> TrainConfig:
    """A small, valid configuration; each section given is merged over it."""
    base: dict[str, dict[str, object]] = {
        "run": {"name": "test", "max_steps": 3},
        "model": {"path": "model", "dtype": "float32"},
        "data": {"train": ["train.jsonl"]},
        "rollout": {"prompts_per_step": 4, "group_size": 2, "max_response_tokens": 8},
        "algorithm": {"mini_batches": 2},
        "learner": {"micro_batch_tokens": 64},
        "evaluation": {"every": None},
    }
    for name, values in sections.items():
        assert isinstance(values, dict)
        base.setdefault(name, {}).update(values)
    return TrainConfig.model_validate(base)


def make_prompt(number: int) -> Prompt:
    return Prompt(
        prompt_id=f"p{number}",
        token_ids=np.asarray([number % 7 + 1, 2, 3], np.int32),
        reference=str(number),
        source="test",
    )


class NumberedPrompts:
    """Prompts p0, p1, … without end."""

    @property
    def state(self) -> CursorState:
        return CursorState(seed=0, epoch=0, position=self._next, data_digest="")

    def __init__(self, state: CursorState | None = None) -> None:
        self._next = state.position if state else 0

    def take(self, count: int) -> list[Prompt]:
        self._next += count
        return [make_prompt(number) for number in range(self._next - count, self._next)]

    def at(self, state: CursorState) -> Prompt:
        return make_prompt(state.position)


def verdict(reward: float, status: str = "") -> Verdict:
    return Verdict(
        reward=reward,
        status=status or ("correct" if reward > 0 else "wrong"),  # type: ignore[arg-type]
        extracted=None,
        seconds=0.0,
    )


class FakeEngine:
    """Responses depend on the seed alone; logprobs on the loaded weights."""

    def __init__(self) -> None:
        self.version = -1
        self.weight = 0.0
        self.stale = False
        self.head_gap = 0.0
        self.closed = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def generate(self, token_ids: IntArray, sampling: Sampling, seed: int, cut_after_s: float | None) -> Rollout:
        await self.gate.wait()
        tokens = seed % sampling.max_response_tokens + 1
        return Rollout(
            response_ids=np.full(tokens, 5, np.int32),
            behavior_logprobs=np.full(tokens, -0.5, np.float32),
            text=str(seed),
            finish_reason="stop",
            token_versions=((self.version, tokens),),
        )

    async def prompt_logprobs(self, token_ids: IntArray) -> FloatArray:
        return np.full(token_ids.size - 1, -self.weight, np.float32)

    async def load_weights(self, path: str, size_bytes: int, entries: object, version: int) -> float:
        if not self.stale:
            with open(path, "rb") as memory:  # noqa: ASYNC230, PTH123 (memory, not a disk)
                self.weight = float(np.frombuffer(memory.read(4), np.float32)[0])
        self.version = version
        return 0.001

    async def resume(self) -> None:
        pass

    async def ping(self) -> None:
        await self.gate.wait()

    async def lm_head_gap(self, path: str, size_bytes: int, entries: object) -> float:
        return self.head_gap

    def close(self) -> None:
        self.closed = True


class ParityScorer:
    """Rewards even texts."""

    async def score(self, response: str, reference: str, source: str) -> Verdict:
        return verdict(float(int(response) % 2 == 0))


def make_snapshot(version: int, weight: float) -> tuple[WeightSnapshot, list[list[np.ndarray]]]:
    bucket = np.frombuffer(np.asarray([weight] * 16, np.float32).tobytes(), np.uint8)
    snapshot = WeightSnapshot(
        version=version,
        entries=(("lm_head.weight", "float32", (4, 4)),),
        buckets=([bucket],),
        fingerprint=combine([fingerprint(bucket)]),
        total_bytes=bucket.size,
    )
    return snapshot, [[bucket]]


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
        rollouts = tuple(
            Rollout(
                response_ids=np.full(2 + sample, 5, np.int32),
                behavior_logprobs=np.full(2 + sample, -0.5, np.float32),
                text="5" * (2 + sample),
                finish_reason="stop",
                token_versions=((version, 2 + sample),),
            )
            for sample in range(request.num_samples)
        )
        tokens = np.asarray([rollout.response_ids.size for rollout in rollouts], np.int32)
        report = GroupReport(
            group_id=request.group_id,
            attempt=request.attempt,
            worker="fake",
            prompt_tokens=request.prompt.token_ids.size,
            response_tokens=tokens,
            truncated=np.zeros(request.num_samples, np.bool_),
            oldest_version=np.full(request.num_samples, version, np.int32),
            version_tokens=((version, int(tokens.sum())),),
            version_runs=np.ones(request.num_samples, np.int32),
            verdicts=tuple(verdict(reward, status) for reward, status in zip(rewards, statuses, strict=True)),
            generated_at_s=time.time(),
            scored_at_s=time.time(),
        )
        body = RolloutGroup(
            group_id=request.group_id, attempt=request.attempt, prompt=request.prompt, rollouts=rollouts
        )
        return report, body

    async def publish(
        self, snapshot: WeightSnapshot, probes: Sequence[ProbeSequence], expected: Sequence[FloatArray]
    ) -> PublishReport:
        self.version = snapshot.version
        self.published.append(snapshot.version)
        return PublishReport(version=snapshot.version, max_logprob_gap=1e-6, transfer_s=0.0, pause_s=0.0)

    async def fetch(self, body: Body) -> RolloutGroup:
        assert isinstance(body, RolloutGroup)
        if body.group_id in self.lost_bodies:
            raise BodyLostError(f"object store: the node of group {body.group_id} is gone")
        return body

    def store(self, group: RolloutGroup) -> Body:
        return group

    def scale(self, workers: int) -> None:
        raise AssertionError("this pool has no workers")

    def status(self) -> tuple[WorkerStatus, ...]:
        return ()

    async def stop(self) -> None:
        pass


class FakeLearners:
    """Counts what it is given; a checkpoint holds its version. `failures`, by step, are raised once."""

    def __init__(self) -> None:
        self.version = 0
        self.batches: list[TrainingBatch] = []
        self.failures: dict[int, Exception] = {}
        self.restarts = 0

    async def update(self, batch: TrainingBatch, bodies: Mapping[int, Body]) -> UpdateReport:
        needed = {ref.group_id for shard in batch.shards for mini in shard for micro in mini for ref in micro}
        assert needed == set(bodies)
        if failure := self.failures.pop(batch.step, None):
            raise failure
        self.batches.append(batch)
        self.version += 1
        return UpdateReport(step=batch.step, policy_version=self.version, metrics={"learner/grad_norm": 1.0})

    async def export_weights(self, version: int) -> WeightSnapshot:
        assert version == self.version
        return make_snapshot(version, 1.0)[0]

    async def probe(self, sequences: Sequence[ProbeSequence]) -> list[FloatArray]:
        return [np.full(sequence.token_ids.size - 1, -1.0, np.float32) for sequence in sequences]

    async def save(self, folder: Path) -> None:
        await asyncio.to_thread(self._write, folder)

    async def load(self, folder: Path) -> None:
        self.version = int(await asyncio.to_thread((folder / "version").read_text))

    def _write(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "version").write_text(str(self.version))

    async def restart(self) -> None:
        self.restarts += 1
        self.version = 0

    async def stop(self) -> None:
        pass


class Digits:
    """Token ids as they are."""

    def decode(self, token_ids: Sequence[int]) -> str:
        return " ".join(map(str, token_ids))


def make_controller(
    config: TrainConfig,
    folder: RunFolder,
    pool: RolloutPool,
    learners: LearnerGroup,
    console: RunConsole,
    *,
    record: RunRecord | None = None,
    make_ledger: Callable[[], Ledger] = Ledger,
    config_yaml: str | None = None,
    clock: Callable[[], float] = time.time,
) -> Controller:
    """The real loop over doubles and a real run folder, which is also the record unless one is given."""
    kept = record or folder

    def session(state: RunState | None, finished: Sequence[FinishedGroup]) -> Session:
        ledger = make_ledger()
        stream = GroupStream(
            config,
            pool,
            NumberedPrompts(state.stream.cursor if state else None),
            ledger,
            batches=config.run.max_steps - (state.step if state else 0),
            on_progress=lambda _: None,
            on_event=kept.write_event,
            restored=state.stream if state else None,
            finished=finished,
        )
        return Session(stream=stream, ledger=ledger, metrics=open_metrics(folder, config.logging, {}))

    checkpoints = CheckpointStore(folder.checkpoints_path)

    def failed(step: int, reason: str) -> None:
        kept.write_event(Event(kind="checkpoint_failed", message=f"step {step}: {reason}"))

    return Controller(
        config,
        pool=pool,
        learners=learners,
        sessions=session,
        evaluator=Evaluator(config, pool, {"held_out": [make_prompt(1001), make_prompt(1002)]}, kept.write_event),
        checkpoints=checkpoints,
        writer=CheckpointWriter(checkpoints, config.checkpoint, config_yaml or dump_config(config), failed),
        probes=probe_sequences([[1, 2, 3]], 1, 3),
        decoder=Digits(),
        record=kept,
        console=console,
        clock=clock,
    )
