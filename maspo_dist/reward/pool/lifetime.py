"""Processes that end with their parent, and with everything they started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time

import psutil

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36
_GIVE_UP_S = 0.5
#: Loaded before any fork: loading between fork and exec is not safe.
_LIBC = ctypes.CDLL(None, use_errno=True)


def end_with_parent(parent_pid: int, with_signal: int = signal.SIGKILL) -> None:
    """Asks the kernel to send this process `with_signal` when its parent's thread ends. Exits if the parent is gone."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, with_signal, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def adopt_orphans() -> None:
    """Makes this process the parent of every descendant whose own parent has ended."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def hide_memory() -> None:
    """Keeps other processes of the same user from reading the memory of this one."""
    _LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def kill_tree(root: int) -> None:
    """SIGKILLs `root`, a child of this process, its session if it leads one, and all descendants.

    Orphaned descendants are found as long as `root` is their subreaper. `root` is stopped first, so that it starts
    nothing new. Killing repeats, because a descendant may fork meanwhile. A child that was reaped before may have left
    processes of its session; when its number belongs to another process by now, nothing is killed.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(root)
        if parent.ppid() != os.getpid():
            return
        parent.suspend()
        _kill_descendants(parent)
        parent.kill()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(root, signal.SIGKILL)


def kill_children() -> None:
    """SIGKILLs all descendants of this process, as `kill_tree` does, and reaps them."""
    _kill_descendants(psutil.Process())
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _kill_descendants(parent: psutil.Process) -> None:
    give_up = time.monotonic() + _GIVE_UP_S
    while time.monotonic() < give_up:
        living = [child for child in parent.children(recursive=True) if _is_alive(child)]
        if not living:
            break
        for child in living:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                child.kill()


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False
