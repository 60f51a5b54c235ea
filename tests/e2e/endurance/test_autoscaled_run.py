"""Ray's autoscaler brings nodes for a real run that lacks them or wants more workers, and takes them afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from autoscaled_cluster import AutoscaledCluster, autoscaled_cluster
from doubles.live_run import ROOT, Launcher
from live_faults import QUICK, events, finish_whole, live, scale, serving, until

#: The learner, the verifier and one engine fill the head; each node has room for one engine.
_HEAD = {"CPU": 3, "labels": {"pool": "engines"}}
_KINDS = {
    "engines": {"resources": {"CPU": 1}, "labels": {"pool": "engines"}, "min_workers": 0, "max_workers": 2},
    "other": {"resources": {"CPU": 1}, "labels": {"pool": "other"}, "min_workers": 0, "max_workers": 2},
}
#: One worker more than the cluster ever has room for.
_WANTED = ("rollout.workers={min: 1, max: 4}", "cluster.labels={rollout: {pool: engines}}", "cluster.node_timeout_s=20")


@pytest.fixture
def autoscaled(monkeypatch: pytest.MonkeyPatch) -> Iterator[AutoscaledCluster]:
    """A test names it before `launcher`, which makes this process a subreaper."""
    with autoscaled_cluster(_HEAD, _KINDS) as cluster:
        for name, value in cluster.environment.items():
            monkeypatch.setenv(name, value)
        yield cluster


def test_nodes_come_for_more_workers_and_go_with_them(autoscaled: AutoscaledCluster, launcher: Launcher) -> None:
    settings = ("run.max_steps=10000", "algorithm.max_policy_age=1", *QUICK, *_WANTED)
    own = {"PYTHONPATH": str(ROOT / "tests")}
    run = launcher.start("grown", *settings, module="doubles.whole_cores", environment=own)
    run.wait_for_step(1)
    began_s = time.monotonic()
    until(run, lambda: serving(run) == 3, "three workers")
    print(f"from step 1 to two more workers on nodes of their own: {time.monotonic() - began_s:.0f} s")
    assert [(node.kind, node.has_engine()) for node in autoscaled.nodes()] == [("engines", True)] * 2
    until(run, lambda: sum(worker.groups_in_flight > 0 for worker in live(run).workers) == 3, "work for all three")

    until(run, lambda: bool(events(run, "worker_waits")), "word that no node comes for the fourth worker")
    time.sleep(50)  # the cluster is asked once more, 20 s after it has refused, for 20 s
    [told] = events(run, "worker_waits")
    assert told.endswith("; the cluster is asked again every 40 s")
    assert run.output.count("found no room") == 1
    assert len(autoscaled.nodes()) == 2

    assert "1 of 1 workers serve" in scale(run, 1)
    closed_s = time.monotonic()
    until(run, lambda: not autoscaled.nodes(), "the end of the nodes", deadline_s=60)
    print(f"from the end of two workers to the end of their nodes: {time.monotonic() - closed_s:.0f} s")
    last = finish_whole(run)
    print(f"{last} steps")
    assert not events(run, "worker_lost")


def test_a_run_waits_for_the_nodes_that_it_needs_to_start(autoscaled: AutoscaledCluster, launcher: Launcher) -> None:
    """The head holds the learner, the verifier and one of two engines; the other engine's node comes."""
    own = {"PYTHONPATH": str(ROOT / "tests")}
    settings = ("run.max_steps=10000", *QUICK, "rollout.workers=2", "cluster.labels={rollout: {pool: engines}}")
    run = launcher.start("waits", *settings, module="doubles.whole_cores", environment=own)
    run.wait_for_step(1)
    assert serving(run) == 2
    assert [(node.kind, node.has_engine()) for node in autoscaled.nodes()] == [("engines", True)]
    assert "nodes that the cluster may add within 1200 s (cluster.node_timeout_s): the run needs 4 CPU" in run.output
    finish_whole(run)


def test_a_run_ends_with_a_sentence_when_the_nodes_do_not_come(
    autoscaled: AutoscaledCluster, launcher: Launcher
) -> None:
    own = {"PYTHONPATH": str(ROOT / "tests")}
    settings = (*QUICK, "rollout.workers=6", "cluster.node_timeout_s=10")
    run = launcher.start("waits-in-vain", *settings, module="doubles.whole_cores", environment=own)
    assert run.finish(120) == 2
    assert "the cluster added no such nodes within 10 s (cluster.node_timeout_s): the run needs 8 CPU" in run.output
