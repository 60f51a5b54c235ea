"""Broadcasts to real vLLM engines that are killed, frozen and joined; prints the longest seconds of each case.

python -m doubles.broadcast_trial MODEL_FOLDER WORKERS TENSOR_PARALLEL REPETITIONS

Requests are in flight all the while. After each case every worker serves, and each gives the learner's logprobs.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from actors.engines.settings import engine_environment
from actors.interfaces import PublishReport, WeightUpdate
from actors.ray.waits import cancel_all
from actors.rollout.broadcasts import Broadcasts
from actors.rollout.pool import ElasticRolloutPool
from doubles.broadcast_workers import BroadcastLearner
from doubles.loop import make_config
from doubles.pool import request
from doubles.vllm_workers import VllmFactory, VllmWorker
from maspo_dist.config import TrainConfig
from maspo_dist.runs.rows import Event
from maspo_dist.types import FloatArray, GroupReport, IntArray

#: Engine and learner both compute in float32.
LARGEST_GAP = 1e-4
#: For an engine to start on a busy machine.
START_S = 120.0
HEARTBEAT_TIMEOUT_S = 10.0
#: Of the weights of a version, beside those of the model.
_NOISE = 0.01
_PROBES, _PROBE_TOKENS = 4, 16


class Versions:
    """Weights that are a function of their version, and the logprobs that they give."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model.eval().requires_grad_(False)
        self.weights = functools.lru_cache(maxsize=2)(self._make_weights)

    def probes(self, seed: int) -> list[IntArray]:
        rng = np.random.default_rng(seed)
        return [rng.integers(5, 100, _PROBE_TOKENS, dtype=np.int32) for _ in range(_PROBES)]

    def logprobs(self, version: int, probes: Sequence[IntArray]) -> list[FloatArray]:
        weights = dict(self.weights(version))
        answers = []
        for probe in probes:
            ids = torch.from_numpy(probe.astype(np.int64))[None]
            logits = torch.func.functional_call(self._model, weights, (ids,)).logits[0, :-1]
            answers.append(logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0].numpy())
        return answers

    def _make_weights(self, version: int) -> Mapping[str, Tensor]:
        generator = torch.Generator().manual_seed(version)
        return {
            name: weight + _NOISE * torch.randn(weight.shape, generator=generator)
            for name, weight in self._model.named_parameters()
        }


class Trial:
    """A pool of `workers` real engines, and what happens to them."""

    def __init__(self, config: TrainConfig, versions: Versions, workers: int) -> None:
        self._versions = versions
        self._workers = workers
        self._learner = BroadcastLearner(versions.weights)
        self._tensors = len(versions.weights(0))
        self._version = -1
        self._deadline_s = config.cluster.broadcast_deadline_s
        self.factory = VllmFactory(config)
        self.events: list[Event] = []
        broadcasts = Broadcasts(config, self._learner, self.events.append)
        self.pool = ElasticRolloutPool(config, self.factory, self.events.append, broadcasts)
        self.reports: list[GroupReport] = []

    async def publish(self) -> PublishReport:
        """Publishes the next version; returns within the deadlines of a broadcast and of what may follow it."""
        self._version += 1
        announced = await asyncio.to_thread(self._learner.announce, self._version)
        probes = self._versions.probes(self._version)
        expected = await asyncio.to_thread(self._versions.logprobs, self._version, probes)
        update = WeightUpdate(snapshot=announced, probes=probes, expected=expected, max_mean_gap=LARGEST_GAP)
        started_s = time.monotonic()
        report = await self.pool.publish(update)
        # All begin, then the bytes, then the grace of engines that have not left; then the object store. A single
        # worker that is struck has to be replaced.
        longest_s = 2.5 * self._deadline_s + 30 + (START_S if self._workers == 1 else 0)
        assert time.monotonic() - started_s < longest_s, f"a publish took {time.monotonic() - started_s:.0f} s"
        return report

    async def require_right(self, workers: int) -> None:
        """Waits until `workers` serve; each computes with the weights that were published last."""
        async with asyncio.timeout(START_S):
            while not self._are_serving(workers):  # noqa: ASYNC110 (a condition of its parts)
                await asyncio.sleep(0.05)
        probes = self._versions.probes(10_000 + self._version)
        expected, before = [
            await asyncio.to_thread(self._versions.logprobs, version, probes)
            for version in (self._version, self._version - 1)
        ]
        assert _gap(before, expected) > 100 * LARGEST_GAP
        for worker in self._serving():
            answers = await asyncio.gather(*map(worker.prompt_logprobs, probes))
            gap = _gap(answers, expected)
            assert gap < LARGEST_GAP, f"{worker.name} is {gap} from policy version {self._version}"

    async def generate(self) -> None:
        """Requests, one group after the other, until cancelled."""
        for group in itertools.count():
            report, _ = await self.pool.generate(request(group))
            self.reports.append(report)
            await asyncio.sleep(0.1)

    async def play(self, case: str, repetition: int) -> None:
        victim = self._serving()[repetition % self._workers]
        tensor = (0, 2 * self._tensors // 3)[repetition % 2]
        if case == "killed before":
            victim.strike(signal.SIGKILL)
        elif case in ("killed in", "frozen in"):
            which = signal.SIGKILL if case == "killed in" else signal.SIGSTOP
            self._learner.before = _once_at(tensor, lambda: victim.strike(which))
        if case != "joins":
            await self.publish()
            self._learner.before = lambda index: None
        if case == "killed after":
            victim.strike(signal.SIGKILL)
            async with asyncio.timeout(2 * HEARTBEAT_TIMEOUT_S):
                while victim in self._serving():  # noqa: ASYNC110 (a condition of its parts)
                    await asyncio.sleep(0.05)
        if case == "joins":
            # An update changes the weights of the learner, but not the copy that it kept.
            self._learner.version = 1_000_000
            self.pool.scale(self._workers + 1)
            await self.require_right(self._workers + 1)
            self.pool.scale(self._workers)
        await self.require_right(self._workers)

    def _are_serving(self, workers: int) -> bool:
        """A worker that was lost just now no longer serves, while its slot may not know it yet."""
        states = [slot.state for slot in self.pool.status()]
        return states == ["serving"] * workers and len(self._serving()) == workers

    def _serving(self) -> list[VllmWorker]:
        handles = [worker.handle for worker in self.pool._serving()]
        return [handle for handle in handles if isinstance(handle, VllmWorker)]


CASES = ("whole", "killed before", "killed in", "frozen in", "killed after", "joins")


async def trial(config: TrainConfig, versions: Versions, workers: int, repetitions: int) -> dict[str, object]:
    scene = Trial(config, versions, workers)
    longest = dict.fromkeys(CASES, 0.0)
    requests: asyncio.Task[None] | None = None
    try:
        await scene.pool.start()
        for _ in range(2):
            await scene.publish()
            await scene.require_right(workers)
        requests = asyncio.create_task(scene.generate())
        for repetition, case in itertools.product(range(repetitions), CASES):
            started_s = time.monotonic()
            await scene.play(case, repetition)
            seconds = time.monotonic() - started_s
            longest[case] = max(longest[case], seconds)
            print(f"{repetition} {case}: {seconds:.1f} s", file=sys.stderr, flush=True)
            if requests.done():
                requests.result()
    finally:
        await cancel_all([] if requests is None else [requests])
        await scene.pool.stop()
        for worker in scene.factory.started:
            worker.kill()
    kinds = [event.kind for event in scene.events]
    counts = {kind: kinds.count(kind) for kind in ("broadcast_failed", "worker_lost", "worker_recovered")}
    return {"seconds": longest, "events": counts, "groups": len(scene.reports)}


def _once_at(tensor: int, strike: Callable[[], None]) -> Callable[[int], None]:
    left = [strike]
    return lambda index: left.pop()() if index == tensor and left else None


def _gap(answers: Sequence[FloatArray], expected: Sequence[FloatArray]) -> float:
    return max(float(np.abs(answer - wanted).max()) for answer, wanted in zip(answers, expected, strict=True))


def main(folder: str, workers: str, tensor_parallel: str, repetitions: str) -> None:
    # Without it vLLM on CPU takes most of the machine's memory, so a second engine would not start.
    os.environ.update(engine_environment("cpu", threads=1))
    config = make_config(
        model={"path": folder, "dtype": "float32", "device": "cpu"},
        rollout={
            "workers": int(workers),
            "tensor_parallel": int(tensor_parallel),
            "engine": {"max_model_len": 128},
            "max_attempts": 20,
        },
        sync={"transport": "collective"},
        cluster={
            "heartbeat_s": 1.0,
            "heartbeat_timeout_s": HEARTBEAT_TIMEOUT_S,
            "start_timeout_s": START_S,
            "restart_backoff_s": 0.0,
            "max_worker_restarts": 1_000_000,
        },
    )
    versions = Versions(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    print(json.dumps(asyncio.run(trial(config, versions, int(workers), int(repetitions)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
