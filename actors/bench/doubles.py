"""Fakes of workers, learners, prompts and a record, shared by the benches and the tests.

A fake takes a known time, or none. What a bench measures over fakes is the cost of the loop itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from actors.interfaces import Body, PublishReport, StagedWeights, WeightSnapshot, WeightUpdate
from actors.weights.fingerprint import combine, fingerprint
from maspo_dist.config import TrainConfig
from maspo_dist.data.cursor import CursorState
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.live import EngineFigures
from maspo_dist.runs.rows import Event, SampleRow
from maspo_dist.runs.step_record import ResponseLogprobs
from maspo_dist.types import (
    FloatArray,
    GroupReport,
    IntArray,
    LedgerRow,
    Prompt,
    Rollout,
    RolloutGroup,
    RolloutRequest,
    ScoredGroup,
    TrainingBatch,
    UpdateReport,
    Verdict,
)

#: Token ids of a prompt, by its number modulo their count.
_PROMPT_IDS = tuple(np.asarray([first, 2, 3], np.int32) for first in range(1, 8))
#: Length of each response of a `FakeWorker`.
_TOKENS = 4


def make_config(**sections: object) -> TrainConfig:
    """A small, valid configuration; each given section is merged over it."""
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
    """Prompt pNUMBER, whose reference is its number."""
    token_ids = _PROMPT_IDS[number % len(_PROMPT_IDS)]
    return Prompt(prompt_id=f"p{number}", token_ids=token_ids, reference=str(number), source="test")


@lru_cache(4096)
def make_rollout(tokens: int, version: int) -> Rollout:
    """`tokens` times token 5, sampled by policy `version`."""
    return Rollout(
        response_ids=np.full(tokens, 5, np.int32),
        behavior_logprobs=np.full(tokens, -0.5, np.float32),
        text="5" * tokens,
        finish_reason="stop",
        token_versions=((version, tokens),),
    )


@lru_cache(64)
def make_verdict(reward: float, status: str = "") -> Verdict:
    """Status `correct` for a positive reward and `wrong` for another, unless one is given."""
    return Verdict(
        reward=reward,
        status=status or ("correct" if reward > 0 else "wrong"),  # type: ignore[arg-type]
        extracted=None,
        seconds=0.0,
    )


def make_report(
    group_id: int,
    prompt_tokens: int,
    response_tokens: Sequence[int],
    verdicts: Sequence[Verdict] = (),
    *,
    version: int = 0,
    at_s: float = 0.0,
) -> GroupReport:
    """The report of responses that were not truncated, sampled by policy `version`; without `verdicts`, all wrong."""
    lengths = np.asarray(response_tokens, np.int32)
    samples = lengths.size
    return GroupReport(
        group_id=group_id,
        prompt_tokens=prompt_tokens,
        response_tokens=lengths,
        truncated=np.zeros(samples, np.bool_),
        oldest_version=np.full(samples, version, np.int32),
        version_tokens=((version, int(lengths.sum())),),
        version_runs=np.ones(samples, np.int32),
        verdicts=tuple(verdicts) or (make_verdict(0.0),) * samples,
        generated_at_s=at_s,
        scored_at_s=at_s,
    )


def make_result(
    request: RolloutRequest,
    version: int,
    response_tokens: Sequence[int],
    verdicts: Sequence[Verdict],
    at_s: float = 0.0,
) -> tuple[GroupReport, RolloutGroup]:
    """What a worker with policy `version` answers to `request`."""
    report = make_report(
        request.group_id,
        request.prompt.token_ids.size,
        response_tokens,
        verdicts,
        version=version,
        at_s=at_s,
    )
    rollouts = tuple(make_rollout(int(tokens), version) for tokens in response_tokens)
    group = RolloutGroup(group_id=request.group_id, prompt=request.prompt, rollouts=rollouts)
    return report, group


def make_scored(report: GroupReport, advantages: FloatArray) -> ScoredGroup:
    """The group of `report`, all of it trainable, its rewards equal to its advantages."""
    trainable = np.ones(advantages.size, np.bool_)
    return ScoredGroup(report=report, rewards=advantages, advantages=advantages, trainable=trainable)


@dataclass(frozen=True, slots=True, eq=False)
class Bucket:
    """Bytes of weights behind a reference of their own: awaiting it returns them."""

    parts: list[np.ndarray]

    def __await__(self) -> Generator[None, None, list[np.ndarray]]:
        yield from ()
        return self.parts


def make_snapshot(version: int, weight: float) -> WeightSnapshot:
    """The snapshot of one tensor filled with `weight`."""
    data = np.frombuffer(np.asarray([weight] * 16, np.float32).tobytes(), np.uint8)
    return WeightSnapshot(
        version=version,
        entries=(("lm_head.weight", "float32", (4, 4)),),
        payload=(Bucket([data]),),
        fingerprint=combine([fingerprint(data)]),
    )


def make_update(version: int, weight: float = 1.0) -> WeightUpdate:
    """A publish of `make_snapshot` without probes."""
    return WeightUpdate(snapshot=make_snapshot(version, weight), probes=(), expected=(), max_mean_gap=1e-3)


def make_publish_report(update: WeightUpdate) -> PublishReport:
    """A publish of `update` that took no time."""
    return PublishReport(
        version=update.version, mean_logprob_gap=1e-7, max_logprob_gap=1e-6, transfer_s=0.0, pause_s=0.0
    )


class FakePrompts:
    """Prompts p0, p1, … without end, from the position of `state` on."""

    def __init__(self, state: CursorState | None = None) -> None:
        self._next = state.position if state else 0

    @property
    def state(self) -> CursorState:
        return CursorState(seed=0, epoch=0, position=self._next, data_digest="")

    def take(self, count: int) -> list[Prompt]:
        self._next += count
        return [make_prompt(number) for number in range(self._next - count, self._next)]

    def at(self, state: CursorState) -> Prompt:
        return make_prompt(state.position)


class FakeWorker:
    """Takes `seconds` for a group and works on `at_once` groups; every second response is correct."""

    def __init__(self, index: int, seconds: float = 0.0, at_once: int = 1) -> None:
        self.index = index
        self.version = -1
        self._seconds = seconds
        self._turns = asyncio.Semaphore(at_once)

    @property
    def name(self) -> str:
        return f"rollout worker {self.index}"

    async def generate(self, request: RolloutRequest) -> tuple[GroupReport, Body]:
        version = self.version
        if self._seconds:
            async with self._turns:
                await asyncio.sleep(self._seconds)
        samples = request.num_samples
        verdicts = [make_verdict(float(sample % 2)) for sample in range(samples)]
        return make_result(request, version, [_TOKENS] * samples, verdicts)

    @property
    def node_id(self) -> str:
        return f"node {self.index}"

    async def stage(self, update: WeightUpdate) -> StagedWeights:
        return StagedWeights(version=update.version, entries=(), source=self.name)

    async def sleep(self) -> None:
        pass

    async def publish(self, update: WeightUpdate, staged: StagedWeights | None) -> PublishReport:
        self.version = update.version
        return make_publish_report(update)

    figures: EngineFigures | None = None

    async def ping(self) -> int:
        return 0

    async def is_gone_with_its_node(self) -> bool:
        return False

    async def stop(self) -> None:
        pass

    def kill(self) -> None:
        pass


class FakeWorkers:
    """Starts a `FakeWorker` for each index; a group's body is the group itself."""

    def __init__(self, seconds: float = 0.0, at_once: int = 1) -> None:
        self._seconds = seconds
        self._at_once = at_once

    async def start_worker(self, index: int, place_timeout_s: float) -> FakeWorker:
        return FakeWorker(index, self._seconds, self._at_once)

    async def room(self) -> int:
        return 0

    async def fetch(self, body: Body) -> RolloutGroup:
        assert isinstance(body, RolloutGroup)
        return body

    def store(self, group: RolloutGroup) -> Body:
        return group


class FakeLearners:
    """An update takes `seconds`; a checkpoint holds the policy version. `failures`, by step, are raised once."""

    achieved = 0

    def __init__(self, seconds: float = 0.0) -> None:
        self.version = 0
        self.steps: list[int] = []
        self.failures: dict[int, Exception] = {}
        self.restarts = 0
        self._seconds = seconds

    async def update(self, batch: TrainingBatch, bodies: Mapping[int, Body]) -> UpdateReport:
        assert {ref.group_id for shard in batch.shards for mini in shard for micro in mini for ref in micro} == {
            *bodies
        }
        if failure := self.failures.pop(batch.step, None):
            raise failure
        if self._seconds:
            await asyncio.sleep(self._seconds)
        self.steps.append(batch.step)
        self.version += 1
        return UpdateReport(step=batch.step, policy_version=self.version, metrics={"learner/grad_norm": 1.0})

    async def export_weights(self, version: int) -> WeightSnapshot:
        assert version == self.version
        return make_snapshot(version, 1.0)

    async def probe(self, sequences: Sequence[IntArray]) -> list[FloatArray]:
        return [np.full(sequence.size - 1, -1.0, np.float32) for sequence in sequences]

    async def frozen_logprobs(self) -> list[ResponseLogprobs]:
        return []

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


class FakeRecord(RunFolder):
    """Counts the ledger's rows and keeps nothing."""

    def __init__(self) -> None:
        self.ended = 0

    def write_event(self, event: Event) -> None:
        pass

    def write_ledger(self, rows: Iterable[LedgerRow]) -> None:
        self.ended += sum(1 for _ in rows)

    def write_samples(self, rows: Iterable[SampleRow]) -> None:
        pass

    def is_scored(self, step: int) -> bool:
        return False

    def rewind(self, step: int) -> int:
        return 0

    def sync(self) -> None:
        pass


def fake_decode(token_ids: Sequence[int]) -> str:
    """The text of token ids is their numbers."""
    return " ".join(map(str, token_ids))


__all__ = [
    "FakeLearners",
    "FakePrompts",
    "FakeRecord",
    "FakeWorker",
    "FakeWorkers",
    "fake_decode",
    "make_config",
    "make_prompt",
    "make_publish_report",
    "make_report",
    "make_result",
    "make_rollout",
    "make_scored",
    "make_snapshot",
    "make_update",
    "make_verdict",
]
