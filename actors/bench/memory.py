"""Memory of processes; Linux."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil


def watch_peak() -> Callable[[], int]:
    """Returns a function: the highest resident memory since this call, in bytes above what was resident then."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_bytes("self", "VmRSS")
    return lambda: _status_bytes("self", "VmHWM") - before


class HighestByRole:
    """The highest memory by role. A role is the beginning of a process name; its memory is that of one descendant of
    `pid`, together with its own descendants.

    That is what they have allocated: neither files, such as libraries, nor memory that processes share.
    """

    def __init__(self, pid: int, roles: Sequence[str]) -> None:
        self.bytes_by_role = dict.fromkeys(roles, 0)
        self._root = psutil.Process(pid)

    def look(self) -> None:
        """Takes what the processes hold now into account."""
        with suppress(psutil.NoSuchProcess):
            for process in self._root.children(recursive=True):
                self._take(process)

    def _take(self, process: psutil.Process) -> None:
        # A process may end meanwhile.
        with suppress(psutil.NoSuchProcess, OSError, StopIteration):
            title = "".join(process.cmdline()[:1])
            for role in self.bytes_by_role:
                if title.startswith(role):
                    family = (process, *process.children(recursive=True))
                    held = sum(_status_bytes(str(member.pid), "RssAnon") for member in family)
                    self.bytes_by_role[role] = max(self.bytes_by_role[role], held)


def _status_bytes(process: str, field: str) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
