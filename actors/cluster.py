"""Ray: joining or starting it, reserving places, making actors. The only ray.remote(...) calls.

connect ──► reserve (one placement group) ──► verifier, learners and rollout workers start side by side
                                               └──► RunningCluster ──► stop ends every one of them
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.deadline import within
from actors.engines.settings import EngineSettings
from actors.evaluation_actor import EvaluationActor
from actors.learner import Learner
from actors.learner_group import RayLearnerGroup
from actors.rollout_actor import RolloutActor
from actors.rollout_pool import RayRolloutPool
from actors.verifier_pool import VerifierActor
from maspo_dist.config import EvalConfig, TrainConfig
from maspo_dist.errors import DeadlineError
from maspo_dist.placement import Bundle, Device, Role, require_fit

logger = logging.getLogger(__name__)

#: Groups that one worker or the verifier may have in flight; admission bounds what really is.
_CONCURRENT_CALLS = 10_000

_ENGINE_ENVIRONMENT: Mapping[Device, Mapping[str, str]] = {
    "cpu": {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # Keeps torch from compiling C++ at the first request with logprobs.
        "TORCHDYNAMO_DISABLE": "1",
    },
    "cuda": {},
}


def connect(temporary: Path | None = None) -> Device:
    """Joins the cluster at RAY_ADDRESS, or starts one on this machine; returns what its processes compute on.

    What Ray prints goes to its own log files.
    """
    address = os.environ.get("RAY_ADDRESS")
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "maspo-dist"}
    if address:
        ray.init(address=address, **common)
    else:
        ray.init(include_dashboard=False, object_store_memory=_object_store_bytes(), **common)
    return "cuda" if ray.cluster_resources().get("GPU", 0) > 0 else "cpu"


def disconnect() -> None:
    """Leaves the cluster; one that `connect` started ends with all its processes."""
    ray.shutdown()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningCluster:
    """The processes of a run, started and ready."""

    learners: RayLearnerGroup
    rollout: RayRolloutPool
    verifier: ActorHandle[Any]
    handles: Sequence[ActorHandle[Any]]
    group: PlacementGroup

    async def stop(self) -> None:
        """Ends every process, gently first, so that engines end their own children."""
        await asyncio.gather(
            self.rollout.stop(),
            self.learners.stop(),
            within(30.0, "verifier: stop", self.verifier.stop.remote()),
            return_exceptions=True,
        )
        for handle in self.handles:
            ray.kill(handle)
        remove_placement_group(self.group)


async def start_cluster(
    config: TrainConfig,
    bundles: tuple[Bundle, ...],
    device: Device,
    logs_path: Path,
    waiting_for: Callable[[str], None],
) -> RunningCluster:
    """Reserves places and starts every process side by side, saying what it waits for.

    Raises PlacementError when the cluster is too small, DeadlineError past `cluster.start_timeout_s`, and
    whatever a process dies of. On any error nothing that was started is left behind.
    """
    require_fit(bundles, ray.cluster_resources())
    deadline_s = time.monotonic() + config.cluster.start_timeout_s
    group = await _reserve(bundles, deadline_s, waiting_for)
    handles: list[ActorHandle[Any]] = []
    try:
        address = await within(30.0, "learner rank 0: a free port on its node", _meeting_point(group))
        verifier, learners, rollouts = _make_actors(config, bundles, device, group, logs_path)
        handles += [verifier, *learners, *rollouts]
        starts = {f"learner rank {rank}": handle.start.remote(address) for rank, handle in enumerate(learners)}
        starts |= {f"rollout worker {index}": handle.start.remote() for index, handle in enumerate(rollouts)}
        await _all_ready(starts, deadline_s, waiting_for)
    except BaseException:
        for handle in handles:
            ray.kill(handle)
        remove_placement_group(group)
        raise
    return RunningCluster(
        learners=RayLearnerGroup(learners, config.cluster),
        rollout=RayRolloutPool(rollouts, config.cluster.generate_timeout_s, config.cluster.publish_timeout_s),
        verifier=verifier,
        handles=handles,
        group=group,
    )


async def _reserve(
    bundles: tuple[Bundle, ...], deadline_s: float, waiting_for: Callable[[str], None]
) -> PlacementGroup:
    resources = [
        {"CPU": bundle.cpus, **({"GPU": float(bundle.gpus)} if bundle.gpus else {})}
        for bundle in bundles
        for _ in range(bundle.count)
    ]
    group = placement_group(resources, strategy="PACK")
    ready = group.ready()
    while True:
        done, _ = await asyncio.to_thread(ray.wait, [ready], timeout=2.0)
        if done:
            return group
        free = ray.available_resources()
        waiting_for(
            f"a place for {len(resources)} processes; free now: {free.get('CPU', 0):g} CPU, {free.get('GPU', 0):g} GPU"
        )
        if time.monotonic() > deadline_s:
            remove_placement_group(group)
            raise DeadlineError(
                f"placement: {len(resources)} processes found no room in time, the cluster is busy with other jobs"
            )


def _make_actors(
    config: TrainConfig,
    bundles: tuple[Bundle, ...],
    device: Device,
    group: PlacementGroup,
    logs_path: Path,
) -> tuple[ActorHandle[Any], list[ActorHandle[Any]], list[ActorHandle[Any]]]:
    places: dict[str, list[dict[str, Any]]] = {"learner": [], "rollout": [], "verifier": []}
    index = 0
    for bundle in bundles:
        for _ in range(bundle.count):
            strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
            places[bundle.role].append(
                {"num_cpus": bundle.cpus, "num_gpus": bundle.gpus, "scheduling_strategy": strategy}
            )
            index += 1
    logs = logs_path.resolve()
    # A verifier that dies is made again and the calls it held are repeated: scoring has no state.
    verifier = (
        ray.remote(VerifierActor)
        .options(**places["verifier"][0], max_restarts=-1, max_task_retries=3, max_concurrency=_CONCURRENT_CALLS)
        .remote(config.reward)
    )
    threads = _threads(config, "learner", config.learner.ranks)
    learners = [
        ray.remote(Learner)
        .options(**place, runtime_env={"env_vars": {"OMP_NUM_THREADS": str(threads)}})
        .remote(config, rank, config.learner.ranks, logs)
        for rank, place in enumerate(places["learner"])
    ]
    environment = {
        **_ENGINE_ENVIRONMENT[device],
        "OMP_NUM_THREADS": str(_threads(config, "rollout", config.rollout.workers)),
        "MASPO_DIST_ENGINE": "1",
        # The engines are local: what they serve is nobody else's statistic.
        "VLLM_NO_USAGE_STATS": "1",
    }
    rollouts = [
        ray.remote(RolloutActor)
        .options(**place, max_concurrency=_CONCURRENT_CALLS, runtime_env={"env_vars": environment})
        .remote(config, index, device, verifier, logs)
        for index, place in enumerate(places["rollout"])
    ]
    return verifier, learners, rollouts


def make_evaluation_actors(
    config: EvalConfig,
    settings: EngineSettings,
    device: Device,
    places: Mapping[Role, Sequence[Mapping[str, Any]]],
    logs_path: Path,
) -> tuple[ActorHandle[Any], list[ActorHandle[Any]]]:
    """The verifier and the evaluation workers, not started yet; `places` are each role's actor options."""
    verifier = (
        ray.remote(VerifierActor)
        .options(**places["verifier"][0], max_restarts=-1, max_task_retries=3, max_concurrency=_CONCURRENT_CALLS)
        .remote(config.reward)
    )
    environment = {
        **_ENGINE_ENVIRONMENT[device],
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // len(places["rollout"]))),
        "MASPO_DIST_ENGINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    workers = [
        ray.remote(EvaluationActor)
        .options(**place, max_concurrency=_CONCURRENT_CALLS, runtime_env={"env_vars": environment})
        .remote(settings, index, device, verifier, config.cluster.generate_timeout_s, logs_path.resolve())
        for index, place in enumerate(places["rollout"])
    ]
    return verifier, workers


async def _all_ready(
    starts: Mapping[str, Awaitable[object]], deadline_s: float, waiting_for: Callable[[str], None]
) -> None:
    tasks = {
        name: asyncio.ensure_future(within(max(0.0, deadline_s - time.monotonic()), f"{name}: start", start))
        for name, start in starts.items()
    }
    try:
        while pending := [name for name, task in tasks.items() if not task.done()]:
            ready = len(tasks) - len(pending)
            waiting_for(f"{ready} of {len(tasks)} processes ready, waiting for {', '.join(pending)}")
            await asyncio.wait(tasks.values(), timeout=2.0, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks.values():
                if task.done():
                    task.result()
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


def _threads(config: TrainConfig, role: str, processes: int) -> int:
    """CPU threads of one process: learners and engines take turns, so each side may have all cores."""
    if role == "learner" and config.learner.threads is not None:
        return config.learner.threads
    return max(1, (os.cpu_count() or 1) // processes)


def _meeting_point(group: PlacementGroup) -> Awaitable[str]:
    """Where learner ranks meet: the node of rank 0, at a port that is free there now."""
    place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
    address: Awaitable[str] = ray.remote(_free_address).options(num_cpus=0, scheduling_strategy=place).remote()
    return address


def _free_address() -> str:
    """A port that nothing listens on; torch's store binds it a moment later."""
    with closing(socket.socket()) as probe:
        probe.bind(("", 0))
        return f"tcp://{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"


def _object_store_bytes() -> int:
    """A tenth of memory, between 100 MB and 8 GB: weights and the groups of a few steps."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(8 * 10**9, max(10**8, memory // 10))
