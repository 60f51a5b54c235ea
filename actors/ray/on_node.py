"""What runs for a moment on a node: in a fresh process, which must not spend seconds on imports."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import psutil
import ray

from maspo_dist.errors import PlacementError

#: A port that was just used is free again within this.
_RELEASE_S = 5.0
_SHARED_MEMORY = Path("/dev/shm")
#: What Python's multiprocessing and vLLM's tensor parallelism on CPU make there.
_SEGMENTS = ("psm_*", "sem.mp-*", "vllm_dist_*")


def free_address(port: int | None, release_s: float = _RELEASE_S) -> str:
    """`tcp://node:port` of a port that nothing listens on; torch's store binds it a moment later.

    Raises PlacementError when `port` is given and still taken after `release_s`.
    """
    node = ray.util.get_node_ip_address()
    deadline_s = time.monotonic() + release_s
    while True:
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port or 0))
            except OSError:
                if time.monotonic() < deadline_s:
                    time.sleep(0.1)
                    continue
                raise PlacementError(
                    f"cluster.learner_port {port} is in use on {node}: choose another, or null for any that is free"
                ) from None
            return f"tcp://{node}:{probe.getsockname()[1]}"


def ask_for_stacks(pid: int) -> None:
    """Signals a process of this node, which has registered faulthandler for it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGUSR1)


def mapped_segments(pid: int) -> tuple[str, ...]:
    """Names in /dev/shm that `pid` and its descendants have mapped now.

    Found by inode: a semaphore is mapped under a name that is gone by the time it has its own.
    """
    inodes: set[int] = set()
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            # address perms offset dev inode path
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
                inodes |= {int(line.split()[4]) for line in lines if str(_SHARED_MEMORY) in line}
    made = [path for pattern in _SEGMENTS for path in _SHARED_MEMORY.glob(pattern)]
    return tuple(sorted(path.name for path in made if _inode(path) in inodes))


def remove_segments(names: Sequence[str]) -> None:
    """Takes down what killed processes of this node could not; harmless where they did."""
    for name in names:
        (_SHARED_MEMORY / name).unlink(missing_ok=True)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
