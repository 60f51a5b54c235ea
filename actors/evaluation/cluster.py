"""The processes of a standalone evaluation: engines and a verifier pool, no learner."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.engines.vllm.settings import EngineSettings, engine_environment
from actors.evaluation.actor import EvaluationActor
from actors.ray.actor_options import CONCURRENT_CALLS, actor_class, share_of_cores
from actors.ray.placement_groups import reserve
from actors.ray.waits import within
from actors.verifier.actor import VerifierActor
from actors.verifier.watch import watch_verifier
from maspo_dist.config import EvaluationConfig
from maspo_dist.planning.placement import Bundle, Device, Role, require_fit
from maspo_dist.types import Event, Rollout, RolloutRequest, Verdict

logger = logging.getLogger(__name__)

_STOP_S = 30.0


class EvaluationCluster:
    """Places, starts and ends the processes. Implements `evaluation_run.EvaluationPool`."""

    def __init__(self, config: EvaluationConfig, bundles: tuple[Bundle, ...], device: Device, logs_path: Path) -> None:
        self._config = config
        self._bundles = bundles
        self._device: Device = device
        self._logs = logs_path
        self._group: PlacementGroup | None = None
        self._verifier: ActorHandle[Any] | None = None
        self._workers: list[ActorHandle[Any]] = []

    async def start(self, settings: EngineSettings, waiting_for: Callable[[str], None]) -> None:
        """Starts every process side by side, saying what it waits for. Call `stop` whatever happens.

        Raises PlacementError when the cluster is too small or stays full, DeadlineError past
        `cluster.start_timeout_s`, and whatever a process dies of.
        """
        require_fit(self._bundles, ray.cluster_resources())
        timeout_s = self._config.cluster.start_timeout_s
        deadline_s = time.monotonic() + timeout_s
        self._group = await reserve(self._bundles, timeout_s, waiting_for)
        self._verifier, self._workers = make_evaluation_actors(
            self._config, settings, self._device, self._places(self._group), self._logs
        )
        waiting_for(f"{self.size} vLLM engine{'s' if self.size > 1 else ''}")
        await asyncio.gather(
            *(
                within(deadline_s - time.monotonic(), f"evaluation worker {index}: start", worker.start.remote())
                for index, worker in enumerate(self._workers)
            )
        )

    @property
    def size(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    async def sample(self, worker: int, request: RolloutRequest) -> Sequence[tuple[Rollout, Verdict]]:
        """All responses to one problem with their verdicts. Raises DeadlineError, ActorDiedError, VerifierError."""
        samples: Sequence[tuple[Rollout, Verdict]] = await within(
            self._config.cluster.generate_timeout_s,
            f"evaluation worker {worker}: problem {request.prompt.prompt_id}",
            self._workers[worker].sample.remote(request),
        )
        return samples

    async def watch_verifier(self) -> None:
        """Runs until cancelled, once the cluster is started; see `verifier_watch`."""
        assert self._verifier is not None
        await watch_verifier(self._verifier, self._config.cluster, _log)

    async def stop(self) -> None:
        """Ends every process, gently first, so that engines end their own children."""
        handles = [*self._workers, *([self._verifier] if self._verifier is not None else [])]
        await asyncio.gather(
            *(within(_STOP_S, "evaluation: stop", handle.stop.remote()) for handle in handles), return_exceptions=True
        )
        for handle in handles:
            ray.kill(handle)
        if self._group is not None:
            remove_placement_group(self._group)

    def _places(self, group: PlacementGroup) -> dict[Role, list[dict[str, Any]]]:
        places: dict[Role, list[dict[str, Any]]] = {}
        index = itertools.count()
        for bundle in self._bundles:
            places[bundle.role] = [
                {
                    "num_cpus": bundle.cpus,
                    "num_gpus": bundle.gpus,
                    "scheduling_strategy": PlacementGroupSchedulingStrategy(
                        group, placement_group_bundle_index=next(index)
                    ),
                }
                for _ in range(bundle.count)
            ]
        return places


def _log(event: Event) -> None:
    logger.warning("%s", event.message)


def make_evaluation_actors(
    config: EvaluationConfig,
    settings: EngineSettings,
    device: Device,
    places: Mapping[Role, Sequence[Mapping[str, Any]]],
    logs_path: Path,
) -> tuple[ActorHandle[Any], list[ActorHandle[Any]]]:
    """The verifier and the evaluation workers, not started yet; `places` are each role's actor options."""
    verifier = (
        actor_class(VerifierActor)
        .options(**places["verifier"][0], max_restarts=-1, max_task_retries=3, max_concurrency=CONCURRENT_CALLS)
        .remote(config.reward, logs_path.resolve())
    )
    environment = engine_environment(device, share_of_cores(len(places["rollout"])))
    workers = [
        ray.remote(EvaluationActor)
        .options(**place, max_concurrency=CONCURRENT_CALLS, runtime_env={"env_vars": environment})
        .remote(settings, index, device, verifier, config.cluster.verify_timeout_s, logs_path.resolve())
        for index, place in enumerate(places["rollout"])
    ]
    return verifier, workers
