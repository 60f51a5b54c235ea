"""What runs for a moment on a node: in a fresh process, which must not spend seconds on imports."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from contextlib import closing

import ray

from maspo_dist.errors import PlacementError

#: A port that was just used is free again within this.
_RELEASE_S = 5.0


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
