"""Whatever process of a run dies or hangs, the run ends with the numbers that it would have had without."""

from __future__ import annotations

import asyncio
import re
import signal
from contextlib import ExitStack

import pytest
from doubles.faulty_actors import LEAVES_WITHIN_S

from faults.faulty_run import (
    Outcome,
    Scene,
    extra_node,
    faulty_config,
    occupied,
    play,
    score_while_watched,
    told,
    until,
    write_script,
)
from maspo_dist.runs.folder import RunFolder

#: Ray's own sockets and processes, in a process that joins a cluster again; they are closed when collected.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

PROMPTS = 52
#: What is told of a verifier process dies with the verifier: a fault that takes a while lies between.
FAULTS = (
    "kill_worker",
    "freeze_worker",
    "kill_verifier_process",
    "kill_worker_and_its_start",
    "kill_engine",
    "freeze_engine",
    "kill_verifier",
    "freeze_verifier",
    "kill_learner",
    "freeze_learner",
)

PROCESSES = ("controller", "verifier", "learner-0", "learner-1", "rollout-0", "rollout-1")


@pytest.fixture(scope="module")
def faulty(scene: Scene) -> Outcome:
    """A run in which each fault strikes once, each in a step of its own."""
    script = write_script(scene.folder / "script", PROMPTS, FAULTS)
    return play(faulty_config(scene, "faulty", script, PROMPTS))


@pytest.fixture(scope="module")
def undisturbed(scene: Scene, faulty: Outcome) -> Outcome:
    """The same prompts again: every fault has struck already."""
    return play(faulty_config(scene, "undisturbed", scene.folder / "script" / "train.jsonl", PROMPTS))


def test_every_fault_has_struck(scene: Scene, faulty: Outcome) -> None:
    struck = {path.name.partition("-")[2] for path in (scene.folder / "script").iterdir()}
    assert struck >= set(FAULTS)


def test_the_run_reaches_its_end_with_every_prompt_trained_once(faulty: Outcome) -> None:
    assert faulty.error is None
    assert len(faulty.ledger) == PROMPTS
    assert set(faulty.ledger.values()) == {"trained"}


def test_faults_change_no_number_of_the_run(faulty: Outcome, undisturbed: Outcome) -> None:
    assert undisturbed.error is None
    assert not undisturbed.told("worker_lost") + undisturbed.told("learner_lost") + undisturbed.told("verifier_lost")
    assert len(undisturbed.metrics) == PROMPTS // 4
    assert faulty.metrics == undisturbed.metrics


def test_lost_workers_are_reported_and_replaced(faulty: Outcome) -> None:
    lost = faulty.told("worker_lost")
    assert any("the process died" in message for message in lost)
    assert any("the engine's process died" in message for message in lost)
    assert sum("no answer within" in message for message in lost) >= 2
    assert any("its engine does not start: no memory left on the device" in message for message in lost)
    assert len(faulty.told("worker_recovered")) >= 5


def test_a_lost_verifier_is_reported_and_restarted(faulty: Outcome) -> None:
    assert any("killed by SIGKILL" in message for message in faulty.told("verifier_process_lost"))
    assert any("no answer within" in message for message in faulty.told("verifier_lost"))
    assert len(faulty.told("verifier_recovered")) == 2


def test_lost_learners_are_reported_and_restarted(faulty: Outcome) -> None:
    killed, frozen = faulty.told("learner_lost")
    assert "the process died" in killed
    assert "no answer within" in frozen
    assert len(faulty.told("learner_recovered")) == 2


def test_a_response_on_which_the_verifier_freezes_is_scored_by_the_next_one(scene: Scene) -> None:
    verdict, events = asyncio.run(score_while_watched(scene, f"freeze_verifier:{scene.folder / 'frozen'}"))
    assert verdict.reward == 1
    assert [event.kind for event in events] == ["verifier_lost", "verifier_recovered"]


def test_a_prompt_that_kills_its_worker_is_dropped_and_one_that_kills_the_learner_ends_the_run(scene: Scene) -> None:
    """The first step has the prompt that kills its worker, the second the prompt that kills the learner."""
    script = write_script(scene.folder / "deadly", 8, ["poison", "kill_learner"], once=False)
    limits = {"rollout": {"max_attempts": 2}, "cluster": {"max_learner_restarts": 1}, "checkpoint": {"every": 1}}
    outcome = play(faulty_config(scene, "deadly", script, 8, **limits))
    assert sorted(outcome.ledger.values()) == ["dropped", *["pending"] * 4, *["trained"] * 3]
    [poison] = [prompt for prompt, fate in outcome.ledger.items() if fate == "dropped"]
    assert any(poison in message for message in outcome.told("prompt_set_aside"))
    assert "learner rank" in str(outcome.error)
    assert outcome.told("run_failed") == [str(outcome.error)]


def test_a_stall_leaves_the_stacks_of_every_process_in_the_logs(scene: Scene) -> None:
    script = write_script(scene.folder / "stall", 8, ["stall"], once=False)

    async def stacks_are_written(folder: RunFolder) -> None:
        logs = [folder.logs_path / f"{name}.log" for name in PROCESSES]
        await until(lambda: all(path.exists() and "most recent call first" in path.read_text() for path in logs))

    config = faulty_config(scene, "stall", script, 8, cluster={"stall_timeout_s": 3, "on_stall": "report"})
    outcome = play(config, stacks_are_written)
    assert outcome.error is None
    assert any("no progress" in message for message in outcome.told("stalled"))


def test_workers_of_a_lost_node_are_replaced_when_another_node_comes_and_move_when_that_leaves(scene: Scene) -> None:
    """The first node has no room for all workers. The prompt of a later step kills the raylet of the second node, which
    takes along the responses that lie there. Another prompt drains the node that came, in the middle of its
    generation, and the workers go to one more.
    """
    script = write_script(scene.folder / "node", 40, ["none"] * 5 + ["kill_node", "none", "rollout_node_leaves"])
    config = faulty_config(
        scene,
        "node",
        script,
        40_000,
        rollout={"workers": 3},
        algorithm={"max_policy_age": 1},
        cluster={"place_timeout_s": 1, "restart_backoff_max_s": 1},
    )
    with ExitStack() as stack:
        stack.enter_context(occupied(scene.cluster, processes=3))
        stack.enter_context(extra_node(scene.cluster, env_vars={"MASPO_TEST_NODE": "1"}))

        async def another_node_comes(folder: RunFolder) -> None:
            await until(lambda: bool(told(folder, "worker_waits")))
            stack.enter_context(extra_node(scene.cluster, env_vars={"MASPO_TEST_LEAVING_NODE": "1"}))
            await until(lambda: bool(told(folder, "worker_moves")))
            stack.enter_context(extra_node(scene.cluster))
            ended = ("worker_lost", "worker_moves")
            await until(lambda: len(told(folder, "worker_recovered")) == sum(len(told(folder, kind)) for kind in ended))

        outcome = play(config, another_node_comes)
    assert outcome.error is None
    before, _, after = outcome.screen.partition("worker_lost")
    assert "start-up" in before
    assert "start-up" not in after
    moved = [re.search(r"its groups in flight \((\d+)\) go to others", text) for text in outcome.told("worker_moves")]
    assert sum(int(groups[1]) for groups in moved if groups) > 0
    assert not outcome.told("prompt_set_aside")
    rows = list(outcome.folder.read_ledger())
    assert sorted(row["group_id"] for row in rows) == list(range(len(rows)))
    assert {row["outcome"] for row in rows} <= {"trained", "pending"}


def test_a_run_whose_learners_node_leaves_saves_in_time_and_goes_on_to_the_same_numbers(
    scene: Scene, undisturbed: Outcome
) -> None:
    """The node leaves during an update. The run goes on where another node has the label of learners."""
    script = write_script(scene.folder / "leaving", PROMPTS, ["none"] * 3 + ["learner_node_leaves"])
    labels = {"learner": {"pool": "home"}}
    config = faulty_config(scene, "leaving", script, PROMPTS, cluster={"labels": labels}, checkpoint={"every": 100})
    with extra_node(scene.cluster, labels=labels["learner"]):
        left = play(config)
    assert left.error is None
    assert left.interrupted == signal.SIGTERM
    times = {event["kind"]: event["time"] for event in left.folder.read_events()}
    assert times["run_stopped"] - times["node_leaves"] < LEAVES_WITHIN_S / 2
    steps = len(left.metrics)
    assert 4 <= steps < len(undisturbed.metrics)
    with extra_node(scene.cluster, labels=labels["learner"]):
        resumed = play(config, opened=RunFolder.resume)
    assert resumed.error is None
    assert f"after step {steps}" in resumed.told("resumed")
    assert resumed.metrics == undisturbed.metrics
    assert set(resumed.ledger.values()) == {"trained"}
