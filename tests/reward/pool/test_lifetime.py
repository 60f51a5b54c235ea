"""What `kill_tree` ends, and what it leaves alone."""

from __future__ import annotations

import subprocess
import time

import psutil
import pytest

from maspo_dist.reward.pool.lifetime import kill_tree

#: Prints the process id of a child of its own.
SCRIPT = "sleep 60 & echo $!; wait"


def start(*, leads_session: bool) -> tuple[subprocess.Popen[str], psutil.Process]:
    shell = subprocess.Popen(["sh", "-c", SCRIPT], stdout=subprocess.PIPE, text=True, start_new_session=leads_session)
    assert shell.stdout is not None
    with shell.stdout:
        return shell, psutil.Process(int(shell.stdout.readline()))


def require_ended(process: psutil.Process) -> None:
    """Nothing may reap it: in some containers no process takes care of orphans."""
    deadline_s = time.monotonic() + 10
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline_s, f"{process} still runs"
        time.sleep(0.01)


@pytest.mark.parametrize("leads_session", [True, False])
def test_a_child_and_all_that_it_started_are_killed(leads_session: bool) -> None:
    shell, child = start(leads_session=leads_session)
    kill_tree(shell.pid)
    assert shell.wait(10) == -9
    require_ended(child)


def test_what_a_reaped_child_left_in_its_session_is_killed() -> None:
    shell, child = start(leads_session=True)
    shell.kill()
    shell.wait(10)
    kill_tree(shell.pid)
    require_ended(child)


def test_a_process_that_is_no_child_is_left_alone() -> None:
    shell, child = start(leads_session=True)
    try:
        kill_tree(child.pid)
        assert child.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    finally:
        kill_tree(shell.pid)
        shell.wait(10)
