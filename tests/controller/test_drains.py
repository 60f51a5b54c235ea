"""Nodes that leave the cluster: workers move, and the run ends in time when the node is its own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping

import pytest
from doubles.loop import FakePool
from doubles.virtual_clock import run_virtually
from ray.exceptions import RpcError

from actors.controller.run_services import beside, follow_drains
from maspo_dist.runs.interrupt import Interruption, until_signal
from maspo_dist.runs.rows import Event

_GRACE_S = 300.0


class MovingPool(FakePool):
    """Notes which nodes leave, at each look."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[Mapping[str, float]] = []

    def leave_nodes(self, leaving: Mapping[str, float]) -> None:
        self.looks.append(leaving)


class Scene:
    """A run whose learners are on `home`, in a cluster whose nodes leave at given times."""

    def __init__(self, deadlines: Mapping[str, tuple[float, float]], lasts_s: float = 1000.0) -> None:
        """`deadlines` holds, by node, when it is known to leave and when it is gone."""
        self.pool = MovingPool()
        self.events: list[Event] = []
        self.asked_at_s: float | None = None
        self.ended_at_s = 0.0
        self._deadlines = deadlines
        self._lasts_s = lasts_s

    def run(self) -> signal.Signals | None:
        return run_virtually(until_signal(self._drive, self._request_stop), 2000)

    def _request_stop(self) -> float:
        self.asked_at_s = asyncio.get_running_loop().time()
        return _GRACE_S

    async def _drive(self, interruption: Interruption) -> None:
        loop = asyncio.get_running_loop()

        def leaving() -> dict[str, float]:
            now_s = loop.time()
            return {node: gone - now_s for node, (known, gone) in self._deadlines.items() if known <= now_s}

        drains = follow_drains(leaving, lambda: {"home", "driver"}, self.pool, interruption, self.events.append)
        try:
            await beside(asyncio.sleep(self._lasts_s), drains)
        finally:
            self.ended_at_s = loop.time()


def test_only_workers_move_from_a_node_without_learners() -> None:
    scene = Scene({"other": (10, 40)}, lasts_s=20)
    assert scene.run() is None
    assert scene.asked_at_s is None
    assert scene.pool.looks[9] == {}
    assert scene.pool.looks[-1].keys() == {"other"}
    assert scene.events == []


@pytest.mark.parametrize("node", ["home", "driver"])
def test_a_run_that_loses_its_own_node_is_asked_at_once_and_ended_before_the_node_is_gone(node: str) -> None:
    scene = Scene({node: (10, 40), "other": (5, 500)})
    assert scene.run() == signal.SIGTERM
    assert scene.asked_at_s == pytest.approx(10, abs=1)
    assert scene.ended_at_s == pytest.approx(35, abs=1)
    assert scene.pool.looks[-1].keys() == {"other"}, "workers on the own node help to end the step"
    assert [event.kind for event in scene.events] == ["node_leaves"]
    assert scene.events[0].message.startswith("a node of the learners or the controller leaves in 30 s")


def test_a_deadline_after_the_grace_does_not_lengthen_it_and_an_earlier_one_shortens_it() -> None:
    late = Scene({"home": (10, 1000)})
    late.run()
    assert late.ended_at_s == pytest.approx(10 + _GRACE_S, abs=1)
    twice = Scene({"home": (10, 1000), "driver": (20, 60)})
    twice.run()
    assert twice.ended_at_s == pytest.approx(55, abs=1)
    assert len(twice.events) == 1


def test_a_cluster_that_does_not_answer_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    pool, answers = MovingPool(), iter([RpcError("no answer"), {"other": 5.0}])

    def leaving() -> Mapping[str, float]:
        answer = next(answers, {})
        if isinstance(answer, RpcError):
            raise answer
        return answer

    async def drive(interruption: Interruption) -> None:
        await beside(asyncio.sleep(5), follow_drains(leaving, set, pool, interruption, lambda _: None))

    assert run_virtually(until_signal(drive), 200) is None
    assert pool.looks[:3] == [{}, {"other": 5.0}, {}]
    assert "the cluster does not say which nodes leave" in caplog.text
