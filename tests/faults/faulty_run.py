"""A whole run, driven in this process as `maspo-dist train` drives it, over faulty actors."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import ray
from doubles.drained_node import drain_node
from doubles.faulty_actors import CLASSES
from doubles.live_run import comparable
from doubles.loop import make_config, make_prompt
from ray._private.node import Node as ClusterNode
from ray.cluster_utils import Cluster
from ray.util.placement_group import get_placement_group, placement_group, remove_placement_group

from actors.commands.training import Run
from actors.controller.run_services import beside
from actors.verifier.client import VerifierClient
from actors.verifier.process import VerifierProcess
from maspo_dist.config import ClusterConfig, TrainConfig, VerifierConfig
from maspo_dist.data.cursor import PromptCursor
from maspo_dist.demo import DemoRecipe, WarmStart, make_demo
from maspo_dist.planning.placement import CPU_SHARE
from maspo_dist.planning.preflight import prepare
from maspo_dist.runs.checkpoint import CheckpointStore, read_state
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.interrupt import until_signal
from maspo_dist.runs.rows import Event
from maspo_dist.types import Verdict
from maspo_dist.views.console import open_console

_ONE_STEP = DemoRecipe(
    train_problems=8,
    heldout_problems=8,
    warm_start=WarmStart(accuracy_band=(0.0, 1.0), batch_size=2, first_check_step=1, max_steps=1),
)
_PER_STEP = 4
_SEED = 0
_REWARD = {"default": "python:doubles.fault_reward:score", "workers": 2, "retries_after_death": 1}
#: Of whole runs here.
_DEADLINE_S = 240.0


@dataclass(frozen=True)
class Scene:
    """The cluster, a model folder for its tokenizer, and where runs go."""

    cluster: Cluster
    model: Path
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """What a run left, and what ended it, if anything did: an error, or a signal or a node that leaves."""

    folder: RunFolder
    error: BaseException | None
    interrupted: signal.Signals | None
    screen: str

    @property
    def metrics(self) -> list[str]:
        """The rows of metrics.jsonl, timings aside."""
        return comparable(list(self.folder.read_metrics()))

    def told(self, kind: str) -> list[str]:
        return told(self.folder, kind)

    @property
    def ledger(self) -> dict[str, str]:
        """What became of each prompt; every one is there once."""
        rows = list(self.folder.read_ledger())
        outcomes = {row["prompt_id"]: row["outcome"] for row in rows}
        assert len(outcomes) == len(rows)
        return outcomes


@contextmanager
def occupied(cluster: Cluster, processes: int) -> Iterator[None]:
    """Takes the room of that many processes from the runs inside."""
    with joined_cluster(cluster):
        group = placement_group([{"CPU": processes * CPU_SHARE}], name="occupied", lifetime="detached")
        assert group.wait(30)
    try:
        yield
    finally:
        with joined_cluster(cluster):
            remove_placement_group(get_placement_group("occupied"))


@contextmanager
def extra_node(cluster: Cluster, **options: Any) -> Iterator[ClusterNode]:
    """A node of one core more, removed at the end."""
    node = cluster.add_node(num_cpus=1, object_store_memory=10**8, **options)
    try:
        yield node
    finally:
        cluster.remove_node(node)


async def drain(cluster: Cluster, node: ClusterNode, seconds: float) -> None:
    """Tells the cluster that `node` leaves in that time."""
    await asyncio.to_thread(drain_node, cluster.address, node.node_id, seconds)


@contextmanager
def joined_cluster(cluster: Cluster) -> Iterator[None]:
    """Joins this process to `cluster`."""
    # Named placement groups belong to a namespace.
    ray.init(cluster.address, namespace="faults", log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def told(folder: RunFolder, kind: str) -> list[str]:
    """Messages of the events of `kind`."""
    return [event["message"] for event in folder.read_events() if event["kind"] == kind]


def make_scene(cluster: Cluster, folder: Path) -> Scene:
    demo = make_demo(folder / "demo", 0, _ONE_STEP)
    return Scene(cluster, demo.model, folder)


def write_script(folder: Path, prompts: int, faults: Sequence[str], *, once: bool = True) -> Path:
    """`prompts` rows of training data; step k of the first epoch brings fault k, `once` as `fault_script` says."""
    folder.mkdir()
    path = folder / "train.jsonl"
    order = [
        int(prompt.reference) for prompt in PromptCursor([make_prompt(n) for n in range(prompts)], _SEED).take(prompts)
    ]
    answers = ["none"] * prompts
    for number, fault in enumerate(faults):
        answers[order[_PER_STEP * number]] = f"{fault}:{folder / f'{number}-{fault}' if once else ''}"
    rows = [json.dumps({"problem": f"{number}+1=", "answer": answer}) for number, answer in enumerate(answers)]
    path.write_text("\n".join(rows) + "\n")
    return path


def faulty_config(scene: Scene, name: str, script: Path, prompts: int, **sections: dict[str, Any]) -> TrainConfig:
    """A quick run over every prompt of `script` once."""
    cluster = {
        "heartbeat_s": 0.5,
        "heartbeat_timeout_s": 5,
        "restart_backoff_s": 0,
        "update_timeout_s": 10,
        "max_learner_restarts": 5,
        **sections.pop("cluster", {}),
    }
    rollout = {
        "workers": 2,
        "prompts_per_step": _PER_STEP,
        "group_size": 2,
        "max_response_tokens": 8,
        **sections.pop("rollout", {}),
    }
    return make_config(
        run={"name": name, "dir": str(scene.folder / "runs"), "max_steps": prompts // _PER_STEP, "seed": _SEED},
        model={"path": str(scene.model), "device": "cpu"},
        data={"train": [str(script)], "template": "none", "max_prompt_tokens": 32},
        rollout=rollout,
        reward=_REWARD,
        learner={"ranks": 2, "micro_batch_tokens": 64},
        logging={"tensorboard": False},
        checkpoint={"every": 2, **sections.pop("checkpoint", {})},
        cluster=cluster,
        **sections,
    )


async def score_while_watched(scene: Scene, reference: str) -> tuple[Verdict, list[Event]]:
    """Scores "2" on a watched verifier. Returns the verdict, and the events until the verifier answered pings again."""
    events: list[Event] = []
    ray.init(scene.cluster.address)
    try:
        config = VerifierConfig.model_validate(_REWARD)
        cluster = ClusterConfig(heartbeat_s=0.5, heartbeat_timeout_s=2)
        verifier = VerifierProcess(config, cluster, scene.folder / "logs", {"num_cpus": 0})

        async def score() -> Verdict:
            verdict = await VerifierClient(verifier.handle, 60).score("2", reference, "")
            await until(lambda: any(event.kind == "verifier_recovered" for event in events))
            return verdict

        async with asyncio.timeout(_DEADLINE_S):
            return await beside(score(), verifier.watch(events.append)), events
    finally:
        ray.shutdown()


async def until(condition: Callable[[], bool]) -> None:
    """Polls, because the condition reads files. It has no deadline of its own, since the run beside it has one."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.2)


def play(
    config: TrainConfig,
    meanwhile: Callable[[RunFolder], Awaitable[None]] | None = None,
    *,
    opened: Callable[[Path], RunFolder] = RunFolder.create,
) -> Outcome:
    """Runs `config` until it succeeds or fails. `meanwhile` is awaited beside the run; when it returns, the run is
    asked to stop.

    With RunFolder.resume as `opened` the run goes on from its newest checkpoint.
    """
    prepared = prepare(config)
    error: BaseException | None = None
    interrupted: signal.Signals | None = None
    screen = StringIO()
    with opened(config.run.dir / config.run.name) as folder:
        newest, _ = CheckpointStore(folder.checkpoints_path).newest()
        folder.rewind(-1 if newest is None else read_state(newest).step)
        with open_console(config.run.name, config.run.max_steps, stream=screen) as console:
            run = Run(config, prepared, folder, console, newest, CLASSES)

            async def stop_when_told() -> None:
                if meanwhile is not None:
                    await meanwhile(folder)
                    run.request_stop()

            async def bounded() -> signal.Signals | None:
                async with asyncio.timeout(_DEADLINE_S):
                    return await beside(until_signal(run.drive, run.request_stop), stop_when_told())

            try:
                interrupted = asyncio.run(bounded())
            except Exception as raised:
                error = raised
        return Outcome(folder, error, interrupted, screen.getvalue())
