"""Short tasks that run on a given node. Each may start in a fresh process, so keep this module's imports light."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.interfaces import ActorProcess
from maspo_dist.errors import PlacementError

T = TypeVar("T")

_TOKEN_FILE = "shared-folder-token"
#: A network file system may show a new file to other nodes this much later.
_VISIBLE_S = 30.0
_SHARED_MEMORY = Path("/dev/shm")
#: How the segments begin that Python's multiprocessing and vLLM's tensor parallelism on CPU make there.
_SEGMENTS = ("psm_", "sem.mp-", "vllm_dist_")


def run_beside(process: ActorProcess, task: Callable[..., object], *arguments: object) -> Awaitable[object]:
    """Runs `task` with `arguments` on the node of `process`. The result raises RayError when that node is lost."""
    return run_on(process.node_id, task, *arguments)


def run_on(node_id: str, task: Callable[..., T], *arguments: object) -> Awaitable[T]:
    """Runs `task` with `arguments` on a node. The result raises RayError when that node is lost."""
    node = NodeAffinitySchedulingStrategy(node_id, soft=False)
    result: Awaitable[T] = (
        ray.remote(task).options(num_cpus=0, max_retries=0, scheduling_strategy=node).remote(*arguments)
    )
    return result


def dump_stacks(pid: int) -> None:
    """Makes process `pid` of this node write its stacks to its log, see `redirect_output`."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGUSR1)


def gpu_ids() -> list[str]:
    """The GPUs that Ray gave this process, as CUDA_VISIBLE_DEVICES of its node names them: by number or UUID."""
    return list(map(str, ray.get_gpu_ids()))


def free_address(port: int | None, release_s: float = 0.0) -> str:
    """`tcp://node:port` where nothing listens, at `port` or any port; torch's store binds it a moment later.

    Raises PlacementError when `port` is given and is still in use after `release_s` seconds.
    """
    node = ray.util.get_node_ip_address()
    deadline_s = time.monotonic() + release_s
    while True:
        try:
            return f"tcp://{node}:{free_port(port or 0)}"
        except OSError:
            if time.monotonic() >= deadline_s:
                raise PlacementError(
                    f"cluster.learner_port {port} is in use on {node}: choose another, or null for any that is free"
                ) from None
            time.sleep(0.1)


def free_port(port: int = 0) -> int:
    """`port` if nothing listens there, or any free port for 0. Raises OSError when `port` is in use."""
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("", port))
        number: int = probe.getsockname()[1]
        return number


def write_token(folder: Path) -> str:
    """Writes a random token into `folder`; `require_shared` reads it on other nodes."""
    token = secrets.token_hex(16)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _TOKEN_FILE).write_text(token)
    return token


def require_shared(folder: Path, token: str, visible_s: float = _VISIBLE_S) -> None:
    """Raises PlacementError when `folder` on this node does not hold `token` within `visible_s` seconds."""
    path = folder / _TOKEN_FILE
    if not becomes_true(lambda: path.exists() and path.read_text() == token, visible_s):
        raise PlacementError(
            f"{folder} on node {ray.util.get_node_ip_address()} is not the folder that the driver wrote to: "
            "set run.dir to a folder on storage that all nodes share"
        )


def becomes_true(check: Callable[[], bool], seconds: float = _VISIBLE_S) -> bool:
    """Whether `check` is true within `seconds`; by default, the time until a file of another node is visible here."""
    deadline_s = time.monotonic() + seconds
    while not (is_true := check()) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return is_true


def mapped_segments(pid: int) -> tuple[str, ...]:
    """Names in /dev/shm that `pid` and its descendants have mapped now.

    Compares inodes, because a semaphore is mapped under a temporary name before it gets its own.
    """
    inodes: set[int] = set()
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            # address perms offset dev inode path
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
                inodes |= {int(line.split()[4]) for line in lines if str(_SHARED_MEMORY) in line}
    with os.scandir(_SHARED_MEMORY) as entries:
        names = (entry.name for entry in entries if entry.name.startswith(_SEGMENTS) and entry.inode() in inodes)
        return tuple(sorted(names))


def remove_segments(names: Sequence[str]) -> None:
    """Removes segments that killed processes left on this node; a segment may be gone already."""
    for name in names:
        (_SHARED_MEMORY / name).unlink(missing_ok=True)
