"""Plays a story to its end and checks the invariants of every run.

PYTHONPATH=tests python tests/simulation/play.py 1234     plays the story of one seed again
"""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from doubles.loop import make_controller
from doubles.virtual_clock import run_virtually
from simulated_learners import SimulatedLearners
from story import Faults, Story, make_story
from world import LIMIT_S, SimulatedWorker, SimulatedWorkers, World

from actors.controller.run_services import beside, watch
from actors.controller.turns import DeviceTurns
from actors.interfaces import PublishReport, WeightUpdate
from actors.rollout.broadcasts import Broadcasts
from actors.rollout.direct import DirectPublisher
from actors.rollout.ipc import IpcPublisher
from actors.rollout.pool import ElasticRolloutPool
from maspo_dist.flow.ledger import Ledger
from maspo_dist.runs.catalogue import EVENTS, find_metric
from maspo_dist.runs.checkpoint import CheckpointStore, read_state
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.jsonl import read_rows
from maspo_dist.runs.progress import Progress
from maspo_dist.runs.rows import Event, SampleRow
from maspo_dist.types import LedgerRow
from maspo_dist.views.console import PlainConsole

Row = dict[str, Any]
#: How a process of the controller ends before the run is done.
End = Literal["crash", "stop"]

#: Stories that a process plays before it reports.
_CHUNK = 50


class MortalRecord:
    """A run folder whose writer may die: from then on nothing reaches it."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.is_dead = False

    def is_scored(self, step: int) -> bool:
        return self.folder.is_scored(step)

    def write_event(self, event: Event) -> None:
        assert event.kind != "checkpoint_failed", event.message
        if not self.is_dead:
            self.folder.write_event(event)

    def write_ledger(self, rows: Sequence[LedgerRow]) -> None:
        if not self.is_dead:
            self.folder.write_ledger(rows)

    def write_samples(self, rows: Sequence[SampleRow]) -> None:
        pass

    def rewind(self, step: int) -> int:
        return 0 if self.is_dead else self.folder.rewind(step)

    def sync(self) -> None:
        pass


class WatchedPool(ElasticRolloutPool):
    """Checks after each publish what the engines hold."""

    async def publish(self, update: WeightUpdate) -> PublishReport:
        report = await super().publish(update)
        for worker in self._serving():
            assert isinstance(worker.handle, SimulatedWorker)
            assert worker.handle.holds(update.version), f"{worker.handle.name} serves with other weights than published"
        return report


class WatchedLedger(Ledger):
    """Notes the most groups that were ever open at once."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def admit(self, group_id: int, prompt_id: str) -> None:
        super().admit(group_id, prompt_id)
        self._world.max_outstanding = max(self._world.max_outstanding, len(self._open))


class Silence:
    """Takes what a console would print."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


def play(story: Story, path: Path) -> World:
    """Runs `story` in `path` until all its steps are done, over as many crashes and stops as it has."""
    world = World(story=story, rng=random.Random(story.seed + 1))
    ends: list[End] = ["crash"] * story.faults.crashes + ["stop"] * story.faults.stops
    world.rng.shuffle(ends)
    while not run_virtually(_one_life(world, path, ends.pop() if ends else None), LIMIT_S):
        world.living.clear()
        world.capacity = 8
        world.learners_hold = False
    return world


async def _one_life(world: World, path: Path, end: End | None) -> bool:
    """One process of the controller; False when `end` came before its last step."""
    config, faults = world.story.config, world.story.faults
    with RunFolder.resume(path) as folder:
        record = MortalRecord(folder)
        checkpoints = CheckpointStore(folder.checkpoints_path)
        resume, _ = checkpoints.newest()
        folder.rewind(read_state(resume).step if resume else -1)
        learners = SimulatedLearners(world)
        # Until a checkpoint is loaded.
        world.trained = {}
        if not world.is_colocated:
            await learners.restart()
        direct: DirectPublisher | None = None
        if config.sync.transport == "collective":
            direct = Broadcasts(config, learners, record.write_event)
        elif config.sync.transport == "ipc":
            direct = IpcPublisher(config, learners, record.write_event)
        pool = WatchedPool(config, SimulatedWorkers(world), record.write_event, direct)
        controller = make_controller(
            config,
            folder,
            pool,
            learners,
            PlainConsole("simulated", Progress(max_steps=config.run.max_steps), Silence()),  # type: ignore[arg-type]
            record=record,
            make_ledger=lambda: WatchedLedger(world),
            config_yaml="run: simulated",
            clock=asyncio.get_running_loop().time,
            turns=DeviceTurns(pool, learners) if world.is_colocated else None,
        )
        try:
            await pool.start()
            if world.is_colocated:
                await pool.sleep()
                await learners.restart()
            main = asyncio.ensure_future(
                beside(
                    controller.run(resume),
                    watch(config.cluster, lambda: controller.progress, _no_stacks, record.write_event),
                    _trouble(world, pool, faults),
                )
            )
            timer = asyncio.ensure_future(asyncio.sleep(world.rng.uniform(50, 1500)))
            await asyncio.wait([main, timer] if end else [main], return_when=asyncio.FIRST_COMPLETED)
            timer.cancel()
            if end == "stop":
                controller.request_stop()
            if main.done() or end == "stop":
                return await main
            record.is_dead = True
            main.cancel()
            await asyncio.gather(main, return_exceptions=True)
            return False
        finally:
            await pool.stop()


async def _no_stacks() -> None:
    pass


async def _trouble(world: World, pool: ElasticRolloutPool, faults: Faults) -> None:
    """Scaling, and nodes that are lost or leave, at random times."""
    bounds = world.story.config.rollout.workers
    events = ["scale"] * faults.scalings + ["node"] * faults.node_losses + ["drain"] * faults.drains
    world.rng.shuffle(events)
    for event in events:
        await asyncio.sleep(world.rng.uniform(1, 300))
        if event == "scale" and isinstance(bounds, int):
            pool.scale(world.rng.randint(1, 4))
        elif event == "drain":
            leaving = sorted(worker.node_id for worker in world.living)[: world.rng.randint(1, 3)]
            pool.leave_nodes(dict.fromkeys(leaving, 60.0))
        elif event == "node":
            for worker in sorted(world.living, key=lambda worker: worker.name)[: world.rng.randint(1, 3)]:
                worker.lose_node(missed_in_s=world.rng.uniform(0, 60))
            world.capacity = max(1, len(world.living))
            await asyncio.sleep(world.rng.uniform(1, 600))
            world.capacity = 8
    await asyncio.Event().wait()


def check(world: World, path: Path) -> None:
    """The invariants, read off what the run left behind and what the world saw. Raises AssertionError."""
    story, config = world.story, world.story.config
    assert not world.trespasses, world.trespasses[0]
    ledger = _rows(path / "ledger.jsonl")
    metrics = list(RunFolder(path).read_metrics())
    per_step, age = config.rollout.prompts_per_step, config.algorithm.max_policy_age
    first = 1 if config.evaluation.every is None else 0
    assert [row["step"] for row in metrics] == list(range(first, config.run.max_steps + 1)), "a step is lost or doubled"
    assert {name for row in metrics for name in row if name != "step" and find_metric(name) is None} == set()
    assert {row["kind"] for row in _rows(path / "events.jsonl")} <= EVENTS.keys()
    metrics = metrics[1 - first :]
    scored = [row["step"] for row in _rows(path / "metrics.jsonl") if "time/evaluate_s" in row]
    given_up = {row["step"] for row in _rows(path / "events.jsonl") if row["kind"] == "evaluation_given_up"}
    every, last = config.evaluation.every, config.run.max_steps
    due = set() if every is None else {*range(0, last + 1, every), last}
    assert len(scored) == len(set(scored)), "the scores of a step are doubled"
    assert due - given_up <= set(scored) <= due, "the scores of a step are lost, or are of a step without evaluation"

    ids = sorted(row["group_id"] for row in ledger)
    assert ids == list(range(len(ids))), "a group is lost or ended twice"
    assert all(row["prompt_id"] == f"p{row['group_id']}" for row in ledger), "a prompt is lost or drawn twice"
    outcomes = {row["group_id"]: row for row in ledger}
    assert not any(row["outcome"] == "pending" for row in ledger), "a group is open at the end of all steps"

    trained = sorted(group_id for made in world.trained.values() for group_id in made)
    assert trained == [i for i in ids if outcomes[i]["outcome"] == "trained"], "learner and ledger disagree"
    refills = per_step if config.algorithm.dynamic_sampling.zero_variance == "refill" else 0
    assert world.max_outstanding <= (1 + age) * per_step + (1 + age) * refills, "more in flight than may be trained"
    slots = [0] * (config.run.max_steps + 1)
    for row in ledger:
        slots[row["step"]] += 1
    assert all(per_step <= slots[row["step"]] <= per_step + (1 + age) * refills for row in metrics), "a batch is off"
    for row in metrics:
        assert row["rollout/groups_trained"] + row["rollout/groups_dropped"] == slots[row["step"]], "counts disagree"
        assert row.get("policy/age_max", 0) <= age
    for row in ledger:
        assert row["reason"] != "too_old", "a group was sampled too early"
        if row["reason"] == "poison":
            sent = world.dispatches[row["group_id"]]
            assert sent >= config.rollout.max_attempts, f"group {row['group_id']} was set aside too early"
    talks = config.environment is not None
    for row in metrics:
        has_result = row["rollout/groups_trained"] > 0
        assert ("conversation/turns_mean" in row) >= (talks and has_result), "conversations are lost"
        if has_result:
            trained_on = world.heard_tokens[int(row["policy/version"])]
            assert heard_tokens(row) > trained_on - 0.5, "what conversations heard is lost"
        assert talks or "conversation/turns_mean" not in row
    sessions = [session for talker in world.talkers for session in talker.host.sessions]
    assert all(session.is_closed for session in sessions), "an environment outlives its conversation"
    spared = [i for i in ids if f"p{i}" in story.faults.poison and outcomes[i]["outcome"] == "trained"]
    assert not spared, f"poison prompts of groups {spared} were trained"


def heard_tokens(row: Row) -> float:
    """Over all responses of a step, from its metrics."""
    responses = sum(count for name, count in row.items() if name.startswith("verdicts/"))
    share = row.get("conversation/heard_share", 0.0)
    return float(share / (1 - share) * responses * row["rollout/response_tokens_mean"])


def numbers(path: Path) -> list[Row]:
    """metrics.jsonl without what may differ between equal runs: durations (those of environments use the real clock)
    and the number of restarted conversations.
    """
    left_out = ("_s", "/step_s_p50", "/step_s_p95", "conversation/restarts")
    return [
        {name: value for name, value in row.items() if not name.endswith(left_out)}
        for row in _rows(path / "metrics.jsonl")
    ]


def _rows(path: Path) -> list[Row]:
    return list(read_rows(path))


def tell(seed: int, folder: Path) -> None:
    """Plays and checks one seed; strictly on-policy also against the same story without faults."""
    story = make_story(seed)
    world = play(story, folder / "run")
    check(world, folder / "run")
    given_up = any(
        row["kind"] == "evaluation_given_up" or "would not have trained" in row["message"]
        for row in _rows(folder / "run" / "events.jsonl")
    )
    set_aside = any(row["reason"] in ("poison", "straggler") for row in _rows(folder / "run" / "ledger.jsonl")) or any(
        row.get("eval/held_out/unverifiable_share") for row in numbers(folder / "run")
    )
    if story.config.algorithm.max_policy_age == 0 and story.faults != Faults() and not set_aside and not given_up:
        play(Story(seed=seed, config=story.config, faults=Faults()), folder / "calm")
        told, calm = numbers(folder / "run"), numbers(folder / "calm")
        if story.faults.stops:
            # A run that stops without an engine leaves a publish to the next session.
            calm = [
                {name: value for name, value in row.items() if name in own or not name.startswith("sync/")}
                for own, row in zip(told, calm, strict=True)
            ]
        assert told == calm, "faults show in the numbers"


def failure_of(seed: int) -> str | None:
    """What broke in the story of `seed`; None when it ended well."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        try:
            tell(seed, Path(folder))
        except (Exception, BaseExceptionGroup) as error:
            return f"seed {seed}: {type(error).__name__}: {error}"
    return None


def failures_of(seeds: range) -> list[str]:
    """What broke in which story, on all cores."""
    chunks = [seeds[start : start + _CHUNK] for start in range(0, len(seeds), _CHUNK)]
    # What other tests have left, such as a process group, may wait for threads that a fork does not have.
    gc.collect()
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        return [failure for part in pool.imap_unordered(_failures_here, chunks) for failure in part]


def _failures_here(seeds: range) -> list[str]:
    logging.disable(logging.CRITICAL)
    return [failure for seed in seeds if (failure := failure_of(seed))]


def main(words: Sequence[str]) -> int:
    """Plays what the words name; returns the exit code."""
    for word in words:
        first, dash, last = word.partition("-")
        seeds = range(int(first), int(last if dash else first) + 1)
        if not dash:
            print(make_story(seeds[0]).faults)
        failures = failures_of(seeds)
        print("\n".join([*failures[:20], f"{len(seeds) - len(failures)} passed, {len(failures)} failed"]))
        if failures:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
