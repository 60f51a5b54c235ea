"""The start of a learner rank whose other ranks never join."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from doubles.loop import make_config

from actors.learner import actor
from actors.learner.actor import Learner


class Lonely(Learner):
    """Takes half a second to start; its output stays where it is."""

    def __init__(self, start_timeout_s: float) -> None:
        self._config = make_config(cluster={"start_timeout_s": start_timeout_s})
        self._logs_path = Path()
        self._device = "cpu"

    def _start_engine(self, init_address: str) -> actor.Engine:
        time.sleep(0.5)
        raise RuntimeError("nobody joined")


@pytest.mark.parametrize(("start_timeout_s", "is_late"), [(0.1, True), (60.0, False)])
def test_a_rank_that_does_not_start_writes_its_stacks_before_the_driver_kills_it(
    start_timeout_s: float, is_late: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(actor, "require_shared", lambda *_: None)
    monkeypatch.setattr(actor, "choose_transport", lambda *_: SimpleNamespace(is_direct=False))
    with pytest.raises(RuntimeError, match="nobody joined"):
        Lonely(start_timeout_s).start("tcp://10.0.0.1:29500", "token")
    assert ("in _start_engine" in capfd.readouterr().err) == is_late
