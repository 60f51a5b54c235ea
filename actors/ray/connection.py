"""Joining a Ray cluster, or starting one on this machine."""

from __future__ import annotations

import errno
import logging
import math
import os
import shutil
import socket
from collections.abc import Iterable, Mapping
from queue import Empty, SimpleQueue
from typing import Any, Literal

import grpc
import ray

from actors.ray.control import NAMESPACE
from actors.ray.nodes import has_autoscaler
from maspo_dist.errors import PlacementError
from maspo_dist.planning.placement import Device, pick_device
from maspo_dist.planning.remedies import SHORTER_RAY_FOLDER

_ANSWER_S = 5.0
_SHARED_MEMORY = "/dev/shm"
#: Ray needs that much, and weights and groups leave that much free.
_LEAST_STORE_BYTES, _FREE_STORE_BYTES = 10**8, 2 * 10**9
#: Ray refuses a larger object store outside of /dev/shm, unless the variable is set.
_SLOW_STORE_BYTES, _SLOW_STORE_VARIABLE = 10**10, "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE"
_FINAL = (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE)


def connect(wanted: Device | Literal["auto"], store_bytes: int | None = None) -> Device:
    """Joins the cluster at RAY_ADDRESS, or starts a cluster on this machine; returns the device that its processes use.

    `auto` means GPUs if the cluster has any. `store_bytes` is the size of a new cluster's object store, by default
    that of `own_store`. Ray's output goes to its own log files only. A process that has joined keeps its cluster.
    Raises PlacementError when no cluster answers at RAY_ADDRESS, Ray does not start here, or `auto` may still change.
    """
    join_or_start(store_bytes)
    has_gpu = ray.cluster_resources().get("GPU", 0) > 0
    if wanted == "auto" and not has_gpu and has_autoscaler():
        raise PlacementError(
            "model.device is auto, and the cluster has no GPU yet but may add nodes: set it to cuda, or to cpu"
        )
    return pick_device(wanted, has_gpu=has_gpu)


def join_or_start(store_bytes: int | None = None) -> None:
    """Joins a cluster or starts one, as `connect` does, and leaves the device open."""
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    if address:
        if "://" in address:
            raise PlacementError(
                f"RAY_ADDRESS is {address}, where Ray takes jobs or clients: set it to HOST:PORT as `ray start --head` "
                "prints it, such as 10.0.0.1:6379, on a machine of the cluster; a job is sent by `ray job submit`"
            )
        if cause := no_ray_at(address):
            raise PlacementError(
                f"RAY_ADDRESS is {address}, but no Ray cluster answers there ({cause}): "
                "start one with `ray start --head`, or unset RAY_ADDRESS"
            )
        _init(address, f"RAY_ADDRESS is {address}, but the Ray cluster there cannot be joined")
    else:
        # By default Ray lowers the priority of its workers to 15, below any other work of the machine.
        os.environ.setdefault("RAY_worker_niceness", "0")
        # By default Ray starts a Python process per core, which the actors do not use: each has its own environment.
        os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
        # Without an address Ray would join any cluster that was started on this machine.
        _init("local", "Ray does not start on this machine", store_bytes or own_store()[0])


def connect_to_run(address: str | None) -> None:
    """Joins the cluster at `address`, or the cluster that Ray finds. Raises PlacementError when there is none."""
    if address and (cause := no_ray_at(address)):
        raise PlacementError(f"no Ray cluster answers at {address} ({cause}): is the run still live?")
    try:
        _init(address or "auto", f"the Ray cluster {f'at {address}' if address else 'here'} cannot be joined")
    except PlacementError as error:
        if address or not isinstance(error.__cause__, ConnectionError):
            raise
        # Ray's own sentence advises a flag that `scale` does not have.
        raise PlacementError(
            "RAY_ADDRESS is not set, and this machine has no Ray cluster, or several: set it to HOST:PORT of the run's"
        ) from None


def cluster_address() -> str:
    """The address at which another process of this user joins the cluster."""
    address: str = ray.get_runtime_context().gcs_address
    return address


def disconnect() -> None:
    """Leaves the cluster. A cluster that `connect` started ends, with all its processes."""
    ray.shutdown()


def no_ray_at(address: str, answer_s: float = _ANSWER_S) -> str | None:
    """Why no Ray cluster can be at `address`: no gRPC server answers there within `answer_s` seconds. None if one does.

    Also None for an address that is not host:port, and, where Ray uses TLS, for any server that listens. `ray.init`
    itself would block for minutes and ignore signals.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        return None
    try:
        # gRPC does not say why it cannot connect.
        socket.create_connection((host, int(port)), timeout=answer_s).close()
    except OSError as error:
        return error.strerror or str(error)
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return None
    states: SimpleQueue[grpc.ChannelConnectivity] = SimpleQueue()
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        channel.subscribe(states.put, try_to_connect=True)
        try:
            while (state := states.get(timeout=answer_s)) not in _FINAL:
                pass
        except Empty:
            return "timed out"
    return None if state is grpc.ChannelConnectivity.READY else "what listens there is not Ray"


def own_store(needed_bytes: int | None = None) -> tuple[int, str | None]:
    """The object store of a cluster that `connect` starts: its size in bytes, and a sentence if it will be slow.

    It gets 2 GB more than `needed_bytes`, or a tenth of memory if nothing is said, but no more than /dev/shm has left
    and never more than 40 % of memory. If /dev/shm is too small for what is needed, Ray places the store on a disk;
    raises PlacementError where it would refuse. With RAY_ADDRESS, and in a process that has joined a cluster already,
    there is no such cluster, and the size is 0.
    """
    if os.environ.get("RAY_ADDRESS") or ray.is_initialized():
        return 0, None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    wishes = (0, memory // 10) if needed_bytes is None else (needed_bytes, needed_bytes + _FREE_STORE_BYTES)
    least, wish = (max(_LEAST_STORE_BYTES, min(size, 2 * memory // 5)) for size in wishes)
    # Other processes need a little of it.
    room = shutil.disk_usage(_SHARED_MEMORY).free * 9 // 10
    if least <= room:
        return min(wish, room), None
    lack = (
        f"/dev/shm has {room / 1e6:,.0f} MB for Ray's object store, but {least / 1e6:,.0f} MB are needed: start the "
        f"container with --shm-size={math.ceil(wish / 0.9e9)}g, or enlarge /dev/shm"
    )
    if least > _SLOW_STORE_BYTES and _SLOW_STORE_VARIABLE not in os.environ:
        raise PlacementError(f"{lack}; with {_SLOW_STORE_VARIABLE}=1 the store is on a disk instead, which is slow")
    return min(wish, max(least, _SLOW_STORE_BYTES)), f"{lack}; until then the store is on a disk, which is slow"


def small_stores(nodes: Iterable[Mapping[str, Any]], needed_bytes: int) -> list[str]:
    """A sentence per living node of `nodes`, as `ray.nodes` lists them, whose object store is below `needed_bytes`."""
    sentences = []
    for node in nodes:
        size = node["Resources"].get("object_store_memory", 0.0)
        if node["Alive"] and size < needed_bytes:
            sentences.append(
                f"the object store of node {node['NodeManagerAddress']} holds {size / 1e9:.1f} GB, but a publish needs "
                f"{needed_bytes / 1e9:.1f} GB: it will spill to disk; start Ray there with "
                f"--object-store-memory={needed_bytes} and as much /dev/shm"
            )
    return sentences


def _init(address: str, failure: str, store_bytes: int | None = None) -> None:
    """`ray.init`. Raises PlacementError made of `failure` and Ray's own reason."""
    new = {"include_dashboard": False, "object_store_memory": store_bytes} if address == "local" else {}
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR, **new)
    except Exception as error:  # Ray raises a bare Exception when a node does not come up in time.
        cause = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise PlacementError(f"{failure}: {cause.strip()}{_remedy(error, cause)}") from error


def _remedy(error: Exception, cause: str) -> str:
    if "AF_UNIX path" in cause:
        # Sockets lie in the temporary folder, and the path of a socket has at most 107 bytes.
        return f"; {SHORTER_RAY_FOLDER}"
    if not isinstance(error, OSError) or error.errno not in (errno.EROFS, errno.EACCES):
        return ""
    if ".ray" in cause:
        return "; Ray keeps its token there: set HOME to a folder that can be written"
    return "; set RAY_TMPDIR to a short folder that can be written"
