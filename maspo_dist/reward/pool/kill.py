"""Ends a process with everything it started."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import psutil

_GIVE_UP_S = 0.5


def kill_tree(root: int) -> None:
    """SIGKILLs `root`, its session, and all descendants.

    Orphaned descendants are found as long as `root` is their subreaper. `root` is stopped first, so that it starts
    nothing new. Killing repeats, because a descendant may fork meanwhile.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(root)
        parent.suspend()
        give_up = time.monotonic() + _GIVE_UP_S
        while time.monotonic() < give_up:
            living = [child for child in parent.children(recursive=True) if _is_alive(child)]
            if not living:
                break
            for child in living:
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    child.kill()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(root, signal.SIGKILL)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
