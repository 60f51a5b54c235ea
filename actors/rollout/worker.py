"""One rollout worker: an engine, the scorer it sends responses to, and the weights it was given.

A response is scored as soon as it ends, while its siblings still generate. No result leaves the worker
before the weights it was generated with are proven, see `publish`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from actors.interfaces import ProbeSequence, WeightSnapshot, WorkerPublish
from actors.weights.fingerprint import ByteArray
from actors.weights.staged_weights import Entries, StagedWeights
from maspo_dist.errors import WeightSyncError
from maspo_dist.types import (
    FloatArray,
    GroupReport,
    IntArray,
    Rollout,
    RolloutGroup,
    RolloutRequest,
    Sampling,
    Verdict,
)

#: Far above what rounding does to the head's product, as a share of its largest logit; far below one stale step.
_HEAD_ROUNDING: Mapping[str, float] = {"float32": 1e-5, "bfloat16": 0.02}


class Engine(Protocol):
    """What a worker needs of a generation engine."""

    async def generate(
        self, token_ids: IntArray, sampling: Sampling, seed: int, cut_after_s: float | None
    ) -> Rollout: ...

    async def prompt_logprobs(self, token_ids: IntArray) -> FloatArray: ...

    async def load_weights(self, path: str, size_bytes: int, entries: Entries, version: int) -> float: ...

    async def resume(self) -> None: ...

    async def ping(self) -> None: ...

    async def lm_head_gap(self, path: str, size_bytes: int, entries: Entries) -> float: ...

    def close(self) -> None: ...


class Scorer(Protocol):
    """Scores one response."""

    async def score(self, response: str, reference: str, source: str) -> Verdict: ...


class RolloutWorker:
    """Serves requests concurrently; one publish at a time."""

    def __init__(self, name: str, engine: Engine, scorer: Scorer, max_logprob_gap: float) -> None:
        self._name = name
        self._engine = engine
        self._scorer = scorer
        self._max_logprob_gap = max_logprob_gap
        self._memory = StagedWeights()
        self._proven = asyncio.Event()

    async def generate(self, request: RolloutRequest) -> tuple[GroupReport, RolloutGroup]:
        """Samples and scores one group."""
        samples = await asyncio.gather(*(self._sample(request, sample) for sample in range(request.num_samples)))
        await self._proven.wait()
        rollouts = tuple(rollout for rollout, _, _ in samples)
        group = RolloutGroup(
            group_id=request.group_id, attempt=request.attempt, prompt=request.prompt, rollouts=rollouts
        )
        versions: Counter[int] = Counter()
        for rollout in rollouts:
            for version, tokens in rollout.token_versions:
                versions[version] += tokens
        report = GroupReport(
            group_id=request.group_id,
            attempt=request.attempt,
            worker=self._name,
            prompt_tokens=request.prompt.token_ids.size,
            response_tokens=np.asarray([rollout.response_ids.size for rollout in rollouts], np.int32),
            truncated=np.asarray([rollout.finish_reason == "length" for rollout in rollouts], np.bool_),
            oldest_version=np.asarray([rollout.token_versions[0][0] for rollout in rollouts], np.int32),
            version_tokens=tuple(sorted(versions.items())),
            version_runs=np.asarray([len(rollout.token_versions) for rollout in rollouts], np.int32),
            verdicts=tuple(verdict for _, verdict, _ in samples),
            generated_at_s=max(ended_s for _, _, ended_s in samples),
            scored_at_s=time.time(),
        )
        return report, group

    async def publish(
        self,
        snapshot: WeightSnapshot,
        buckets: Sequence[Sequence[ByteArray]],
        probes: Sequence[ProbeSequence],
        expected: Sequence[FloatArray],
    ) -> WorkerPublish:
        """Swaps in `snapshot` and proves it. Raises WeightSyncError when the engine fails the proof;
        a worker that failed hands out no result until a later publish succeeds.
        """
        started_s = time.perf_counter()
        entries = await asyncio.to_thread(self._memory.stage, snapshot, buckets, self._name)
        transfer_s = time.perf_counter() - started_s
        self._proven.clear()
        pause_s = await self._engine.load_weights(self._memory.path, self._memory.size_bytes, entries, snapshot.version)
        await self._engine.resume()
        gap = await self._prove(snapshot.version, entries, probes, expected)
        self._proven.set()
        return WorkerPublish(max_logprob_gap=gap, transfer_s=transfer_s, pause_s=pause_s)

    async def ping(self) -> None:
        """Comes back when the engine answers."""
        await self._engine.ping()

    def stop(self) -> None:
        """Ends the engine's processes."""
        self._engine.close()
        self._memory.close()

    async def _sample(self, request: RolloutRequest, sample: int) -> tuple[Rollout, Verdict, float]:
        rollout = await self._engine.generate(
            request.prompt.token_ids, request.sampling, request.seed + sample, request.cut_after_s
        )
        ended_s = time.time()
        verdict = await self._scorer.score(rollout.text, request.prompt.reference, request.prompt.source)
        return rollout, verdict, ended_s

    async def _prove(
        self, version: int, entries: Entries, probes: Sequence[ProbeSequence], expected: Sequence[FloatArray]
    ) -> float:
        got = await asyncio.gather(*(self._engine.prompt_logprobs(probe.token_ids) for probe in probes))
        gap = max(float(np.abs(ours - theirs).max()) for ours, theirs in zip(got, expected, strict=True))
        if gap <= self._max_logprob_gap:
            return gap
        head_gap = await self._engine.lm_head_gap(self._memory.path, self._memory.size_bytes, entries)
        _, dtype, *_ = entries[0]
        culprit = (
            f"its LM head computes from a stale copy of lm_head.weight (logits off by {head_gap:.1%})"
            if head_gap > _HEAD_ROUNDING[dtype]
            else "its LM head is right, so a layer below it kept old weights"
        )
        raise WeightSyncError(
            f"{self._name} does not hold policy version {version}: logprobs differ from the learner's by {gap:.3g} "
            f"(sync.max_logprob_gap is {self._max_logprob_gap:g}); {culprit}"
        )
