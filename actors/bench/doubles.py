"""Workers, learners and a record that take known times, or none: what is left is the cost of the loop itself."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from actors.interfaces import Body, ProbeSequence, WeightSnapshot, WorkerPublish
from maspo_dist.data.cursor import CursorState
from maspo_dist.types import (
    Event,
    FloatArray,
    GroupReport,
    LedgerRow,
    Prompt,
    Rollout,
    RolloutGroup,
    RolloutRequest,
    SampleRow,
    TrainingBatch,
    UpdateReport,
    Verdict,
)

_TOKENS = 4
_PROMPT = np.asarray([1, 2, 3], np.int32)
_RIGHT = Verdict(reward=1.0, status="correct", extracted="1", seconds=0.0)
_WRONG = Verdict(reward=0.0, status="wrong", extracted="2", seconds=0.0)


class CountingPrompts:
    """Prompts without end, each made when asked for."""

    def __init__(self) -> None:
        self._taken = 0

    @property
    def state(self) -> CursorState:
        return CursorState(seed=0, epoch=0, position=self._taken, data_digest="")

    def take(self, count: int) -> list[Prompt]:
        prompts = [self.at(replace(self.state, position=self._taken + i)) for i in range(count)]
        self._taken += count
        return prompts

    def at(self, state: CursorState) -> Prompt:
        return Prompt(prompt_id=f"p{state.position}", token_ids=_PROMPT, reference=str(state.position), source="bench")


class TimedWorker:
    """Works on `groups_at_once` groups, each for `seconds`; later ones wait their turn."""

    def __init__(self, index: int, samples: int, seconds: float, groups_at_once: int) -> None:
        self._name = f"worker {index}"
        self._seconds = seconds
        self._version = 0
        self._turns = asyncio.Semaphore(groups_at_once)
        self._rollouts = tuple(
            Rollout(
                response_ids=np.full(_TOKENS, 5, np.int32),
                behavior_logprobs=np.full(_TOKENS, -0.5, np.float32),
                text="5",
                finish_reason="stop",
                token_versions=((0, _TOKENS),),
            )
            for _ in range(samples)
        )

    @property
    def name(self) -> str:
        return self._name

    async def generate(self, request: RolloutRequest) -> tuple[GroupReport, Body]:
        version = self._version
        if self._seconds:
            async with self._turns:
                await asyncio.sleep(self._seconds)
        samples = request.num_samples
        report = GroupReport(
            group_id=request.group_id,
            attempt=request.attempt,
            worker=self._name,
            prompt_tokens=_PROMPT.size,
            response_tokens=np.full(samples, _TOKENS, np.int32),
            truncated=np.zeros(samples, np.bool_),
            oldest_version=np.full(samples, version, np.int32),
            version_tokens=((version, samples * _TOKENS),),
            version_runs=np.ones(samples, np.int32),
            verdicts=tuple(_RIGHT if sample % 2 else _WRONG for sample in range(samples)),
            generated_at_s=0.0,
            scored_at_s=0.0,
        )
        return report, request.group_id

    async def publish(
        self, snapshot: WeightSnapshot, probes: Sequence[ProbeSequence], expected: Sequence[FloatArray]
    ) -> WorkerPublish:
        self._version = snapshot.version
        return WorkerPublish(max_logprob_gap=0.0, transfer_s=0.0, pause_s=0.0)

    async def ping(self) -> None:
        pass

    async def is_gone_with_its_node(self) -> bool:
        return False

    async def stop(self) -> None:
        pass

    def kill(self) -> None:
        pass


class TimedWorkers:
    """The factory of `TimedWorker`."""

    def __init__(self, samples: int, seconds: float, groups_at_once: int) -> None:
        self._samples = samples
        self._seconds = seconds
        self._groups_at_once = groups_at_once

    async def start_worker(self, index: int) -> TimedWorker:
        return TimedWorker(index, self._samples, self._seconds, self._groups_at_once)

    async def room(self) -> int:
        return 0

    async def fetch(self, body: Body) -> RolloutGroup:
        raise AssertionError("nothing is fetched in a bench of the loop")

    def store(self, group: RolloutGroup) -> Body:
        raise AssertionError("nothing is stored in a bench of the loop")


class TimedLearners:
    """An update takes `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._versions = itertools.count(1)

    async def update(self, batch: TrainingBatch, bodies: Mapping[int, Body]) -> UpdateReport:
        if self._seconds:
            await asyncio.sleep(self._seconds)
        return UpdateReport(step=batch.step, policy_version=next(self._versions), metrics={})

    async def export_weights(self, version: int) -> WeightSnapshot:
        return WeightSnapshot(version=version, entries=(), buckets=(), fingerprint=0, total_bytes=0)

    async def probe(self, sequences: Sequence[ProbeSequence]) -> list[FloatArray]:
        return []

    async def save(self, folder: Path) -> None:
        raise AssertionError("nothing is saved in a bench of the loop")

    async def load(self, folder: Path) -> None:
        raise AssertionError("nothing is loaded in a bench of the loop")

    async def restart(self) -> None:
        raise AssertionError("nothing fails in a bench of the loop")

    async def stop(self) -> None:
        pass


class CountedRecord:
    """Counts the ledger's rows and forgets them."""

    last_step = None

    def __init__(self) -> None:
        self.ended = 0

    def write_event(self, event: Event) -> None:
        pass

    def write_ledger(self, rows: Sequence[LedgerRow]) -> None:
        self.ended += len(rows)

    def write_samples(self, rows: Sequence[SampleRow]) -> None:
        pass

    def rewind(self, step: int) -> int:
        return 0

    def sync(self) -> None:
        pass


class PlainDecoder:
    """Decodes nothing of interest."""

    def decode(self, token_ids: Sequence[int]) -> str:
        return ""
