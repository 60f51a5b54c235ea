"""Processes that outlive a run, for the next run of the same program.

    run ends well ──► `RunCluster.leave`: engines rest, learners close their engines ──► Shelf
    next run      ──► `Shelf.take`: the same processes, if both runs need equal ones and all answer; else they end

A rollout worker keeps its engine. The next run's first publish replaces all of its weights, and the path proof of
`actors.rollout.proof` shows that no parameter kept an older value. A learner process keeps only its imports: it builds
a new engine from the next run's model. The verifier keeps its processes, for scoring has no state.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, remove_placement_group

from actors.ray.errors import translate_ray_errors
from actors.ray.waits import within
from actors.rollout.actor import RayRolloutWorker
from actors.weights.transport import SHARED_ON_A_NODE
from maspo_dist.config import TrainConfig
from maspo_dist.errors import MaspoError
from maspo_dist.models.path import is_hub_name
from maspo_dist.planning.placement import Device

_STOP_S = 30.0
_ANSWER_S = 10.0
#: Endings of the files that a publish replaces.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".index.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmWorker:
    """A rollout worker's process, whose engine has no request, and its place."""

    handle: ActorHandle[Any]
    place: PlacementGroup

    async def end(self) -> None:
        """Ends the process; its engine ends its own processes first."""
        try:
            with contextlib.suppress(MaspoError):
                await within(_STOP_S, "a kept rollout worker: stop", self.handle.stop.remote())
        finally:
            ray.kill(self.handle, no_restart=True)
            remove_placement_group(self.place)


@dataclass(eq=False, kw_only=True)
class KeepableWorker(RayRolloutWorker):
    """A rollout worker whose process can outlive it.

    is_to_rest  whether a stop leaves the engine running
    keep        takes over the process and its place, once the engine is at rest
    """

    is_to_rest: Callable[[], bool]
    keep: Callable[[], None]
    _is_at_rest: bool = field(init=False, default=False)

    async def stop(self) -> None:
        if not self.is_to_rest():
            await super().stop()
            return
        with translate_ray_errors(self.name):
            await self.handle.rest.remote()
        self._is_at_rest = True

    def kill(self) -> None:
        if self._is_at_rest:
            self.keep()
        else:
            super().kill()


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmProcesses:
    """What a run leaves: its rollout workers, its learner processes and its verifier, and the place of both."""

    key: str
    base: PlacementGroup
    verifier: ActorHandle[Any]
    learners: Sequence[ActorHandle[Any]]
    workers: Sequence[WarmWorker]

    async def answer(self) -> bool:
        """Whether every process, and every engine, still answers."""
        pings = [self.verifier.ping.remote(), *(worker.handle.ping.remote() for worker in self.workers)]
        pings += [learner.micro_batches.remote() for learner in self.learners]
        answers = [within(_ANSWER_S, "a kept process: ping", ping) for ping in pings]
        return not any(isinstance(it, BaseException) for it in await asyncio.gather(*answers, return_exceptions=True))

    async def end(self) -> None:
        """Ends every process."""
        await asyncio.gather(*(worker.end() for worker in self.workers), return_exceptions=True)
        for process in (*self.learners, self.verifier):
            ray.kill(process, no_restart=True)
        remove_placement_group(self.base)


@dataclass(slots=True)
class Shelf:
    """Holds the processes of the last run between two runs."""

    kept: WarmProcesses | None = field(default=None)

    async def take(self, key: str | None) -> WarmProcesses | None:
        """The kept processes if they are of `key` and answer. Otherwise they end, and there are none."""
        kept, self.kept = self.kept, None
        if kept is None or (kept.key == key and await kept.answer()):
            return kept
        await kept.end()
        return None

    async def end(self) -> None:
        kept, self.kept = self.kept, None
        if kept is not None:
            await kept.end()


def processes_key(config: TrainConfig, device: Device) -> str | None:
    """Equal for two runs that may use the same processes; None for a run whose processes cannot be kept.

    Two runs may differ in seed, objective, optimizer, environment and weights.
    """
    rollout, sync = config.rollout, config.sync
    obstacles = (
        # Not tried: whether a learner's process gives all memory of a GPU back for its next engine.
        device == "cuda",
        # Engines and learners take turns, and a kept engine would have to sleep.
        config.cluster.layout == "colocated",
        # The engine would find keys and values of an earlier run.
        rollout.in_flight_kv == "keep",
        # A publish replaces the adapter only, so the engine would keep the base weights of the earlier run.
        rollout.lora == "adapter",
        # With several vLLM processes, the process that leads the others would keep writing to the log of the earlier
        # run.
        rollout.tensor_parallel > 1,
        # The engine's counters would start where the earlier run ended.
        config.logging.prometheus_port is not None,
        # DeepSpeed keeps settings of ZeRO-3, and of sections of its own, for the whole process.
        config.learner.zero_stage == 3 or bool(config.learner.deepspeed),
        # A user's engine or transport may keep anything.
        rollout.backend != "vllm",
        sync.transport not in SHARED_ON_A_NODE,
        # Engines would stay in a group whose learner has ended.
        sync.transport == "collective",
    )
    if any(obstacles):
        return None
    model = config.model.model_dump(mode="json") | {"path": _model_without_weights(config.model.path)}
    sections = [section.model_dump(mode="json") for section in (rollout, config.reward, config.cluster, sync)]
    sizes = [config.learner.ranks, config.learner.threads, config.data.max_prompt_tokens]
    return json.dumps([device, model, sections, sizes], sort_keys=True)


def _model_without_weights(path: str) -> object:
    """Configuration and tokenizer, as hashes of their files; a hub name as it is."""
    if is_hub_name(path):
        return path
    files = (file for file in sorted(Path(path).iterdir()) if file.is_file() and not file.name.endswith(_WEIGHTS))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
