"""What `maspo-dist doctor` concludes from the facts of each node.

The facts are gathered on the nodes by `actors.commands.node_facts`; everything here is a function of them.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal

from maspo_dist.planning.devices import TorchView, platform_obstacle
from maspo_dist.planning.placement import Device, pick_device
from maspo_dist.planning.remedies import REMEDIES, SHORTER_RAY_FOLDER

#: Shared memory that NCCL and Ray's object store need at least.
_SHARED_MEMORY_BYTES = 10**9
#: Free space without which logs and checkpoints fail soon.
_FREE_BYTES = 10**9
#: Ray stops writing objects to a disk that is fuller.
_FULLEST_DISK = 0.95
#: Open files without which a run fails, and without which a large run may fail.
_LEAST_FILES, _FEW_FILES = 1024, 4096
_FEW_PROCESSES = 4096
#: What Ray appends to its temporary folder for a socket, and how long the path of a socket may be.
_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
_LONGEST_SOCKET = 107
#: Ports on which the head of a cluster listens by default, with the option that changes each.
HEAD_PORTS: Mapping[int, str] = {6379: "--port", 8265: "--dashboard-port"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the run will ask of each node.

    model          folder or hub name; None without a configuration
    run_folder     absolute; None without a configuration
    token_folder   a folder in it, in which the driver of a cluster has written `token`
    """

    is_cluster: bool
    device: Device | Literal["auto"] = "auto"
    learner_port: int | None = None
    model: str | None = None
    run_folder: str | None = None
    token_folder: str | None = None
    token: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Bytes of a file system."""

    path: str
    total: int
    free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a process; None is unlimited."""

    open_files: int | None
    locked_bytes: int | None
    processes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RayToken:
    """The file that holds Ray's token. `is_private` is False if other users can read it."""

    path: str
    is_private: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What was found on one node.

    host             its name
    address          to which the name resolves there; None if it does not
    versions         of what is installed, by name
    smi              a GPU per entry, as nvidia-smi lists them; None if it does not answer
    vllm             vLLM's name for its kind of device, "" where it finds none; None if it does not load
    spaces           shared memory, Ray's temporary folder, then the run folder if there is a configuration
    busy_ports       ports in use that Ray's head or the learners would take
    token            None where this user has none
    cpu_obstacle     why vLLM cannot compute on its CPU, with the fix
    refused          sentences of checks that `train` makes on a node
    ray_gpus         that Ray offers there; None outside of a cluster
    """

    host: str
    address: str | None
    versions: Mapping[str, str]
    torch: TorchView
    smi: tuple[str, ...] | None
    vllm: str | None
    spaces: tuple[Space, ...]
    limits: Limits
    has_infiniband: bool
    busy_ports: tuple[int, ...]
    token: RayToken | None
    cpu_obstacle: str | None = None
    refused: tuple[str, ...] = ()
    ray_gpus: int | None = None

    @property
    def gpus(self) -> int:
        """GPUs on which Ray would place processes."""
        return len(self.smi or ()) if self.ray_gpus is None else self.ray_gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is wrong, with its fix. `prevents` means that a run would fail."""

    prevents: bool
    sentence: str


def _error(sentence: str) -> Finding:
    return Finding(prevents=True, sentence=sentence)


def _warning(sentence: str) -> Finding:
    return Finding(prevents=False, sentence=sentence)


#: What must be installed on each node, and equal on all.
PACKAGES = ("python", "maspo-dist", "torch", "vllm", "deepspeed", "ray", "transformers")


def chosen_device(asked: Asked, nodes: Iterable[NodeFacts]) -> Device:
    """The device that the driver of a run would decide on."""
    return pick_device(asked.device, has_gpu=any(node.gpus for node in nodes))


def findings(nodes: Mapping[str, NodeFacts], asked: Asked, *, is_growing: bool = False) -> list[Finding]:
    """What is wrong on `nodes`, by their names. With `is_growing` the cluster may add nodes of other kinds."""
    device = chosen_device(asked, nodes.values())
    found = [*_differences(nodes), *_missing_gpus(nodes, device, is_growing=is_growing)]
    for name, node in nodes.items():
        own = [
            *_packages(node),
            *_devices(node, device),
            *_spaces(node, device),
            *_limits(node),
            *_ports(node, asked),
            *_names(node, len(nodes) > 1),
            *map(_error, node.refused),
        ]
        found += [Finding(prevents=f.prevents, sentence=f"node {name}: {f.sentence}") for f in own]
    return found


def _differences(nodes: Mapping[str, NodeFacts]) -> Iterator[Finding]:
    for package in (*PACKAGES, "NCCL"):
        by_version: dict[str, list[str]] = {}
        for name, node in nodes.items():
            if version := node.versions.get(package):
                by_version.setdefault(version, []).append(name)
        if len(by_version) > 1:
            found = "; ".join(f"{version} on {', '.join(names)}" for version, names in by_version.items())
            yield _error(f"{package} is {found}: install the same packages on every node of the cluster")


def _missing_gpus(nodes: Mapping[str, NodeFacts], device: Device, *, is_growing: bool) -> Iterator[Finding]:
    if nodes and device == "cuda" and not any(node.gpus for node in nodes.values()):
        if is_growing:
            yield Finding(
                prevents=False, sentence="no node has a GPU yet, so none was examined; the cluster may add some"
            )
            return
        driver = next((node.torch.driver for node in nodes.values() if node.torch.driver), None)
        state = f"the NVIDIA driver is {driver}" if driver else "no node has an NVIDIA driver"
        yield _error(
            f"model.device is cuda, but there is no GPU ({state}): "
            "set model.device=cpu, or give the nodes or containers their GPUs"
        )


def _packages(node: NodeFacts) -> Iterator[Finding]:
    which = "setup-gpu" if node.gpus else "setup"
    for package in PACKAGES:
        if package not in node.versions:
            yield _error(f"{package} is not installed: install the packages of `make {which}` there")
    if node.vllm is None and "vllm" in node.versions:
        yield _error(
            f"vLLM {node.versions['vllm']} does not load: `python -c 'import vllm'` says why; "
            f"install the packages of `make {which}` there again"
        )


def _devices(node: NodeFacts, device: Device) -> Iterator[Finding]:
    # A node without GPUs may hold the driver or the verifier of a run on GPUs.
    if device == "cpu" or node.gpus:
        obstacle = node.torch.gpu_obstacle() if device == "cuda" else None
        # If torch cannot use the GPU, vLLM cannot either, so only torch's obstacle is reported.
        if obstacle is None and node.vllm is not None:
            obstacle = platform_obstacle(device, node.vllm)
        if obstacle is not None:
            yield _error(obstacle)
        elif device == "cpu" and node.cpu_obstacle is not None:
            yield _error(node.cpu_obstacle)
    if node.smi is None:
        if node.torch.driver:
            yield _warning(
                f"nvidia-smi does not answer, though the NVIDIA driver is {node.torch.driver}: run it "
                "there, and restart the node if it hangs"
            )
        return
    listed = len(node.smi)
    if 0 < node.torch.gpus != listed:
        yield _warning(
            f"nvidia-smi lists {listed} GPUs, but torch sees {node.torch.gpus}: "
            "unset CUDA_VISIBLE_DEVICES before `ray start` there, or a run will not use the others"
        )
    if node.ray_gpus is not None and node.ray_gpus != listed:
        yield _warning(
            f"nvidia-smi lists {listed} GPUs, but Ray offers {node.ray_gpus}: start Ray there with --num-gpus={listed}"
        )


def _spaces(node: NodeFacts, device: Device) -> Iterator[Finding]:
    memory, temporary, *_ = node.spaces
    if memory.total < _SHARED_MEMORY_BYTES:
        yield Finding(
            prevents=device == "cuda",
            sentence=f"{memory.path} holds {_size(memory.total)}, but NCCL and Ray's object store need "
            f"{_size(_SHARED_MEMORY_BYTES)} there: start the container with --shm-size=16g or more",
        )
    elif memory.free < _SHARED_MEMORY_BYTES:
        yield Finding(
            prevents=device == "cuda",
            sentence=f"{memory.path} has {_size(memory.free)} free of {_size(memory.total)}, but NCCL and Ray's object "
            f"store need {_size(_SHARED_MEMORY_BYTES)} there: end what holds it, or remove the files that killed "
            "processes left",
        )
    if len(temporary.path + _SOCKET) > _LONGEST_SOCKET:
        yield _error(
            f"Ray's temporary folder {temporary.path} is too long for the path of a socket: {SHORTER_RAY_FOLDER}"
        )
    for space in node.spaces[1:]:
        if space.free < _FREE_BYTES:
            yield _error(f"{space.path} has {_size(space.free)} free: {REMEDIES[errno.ENOSPC]}")
    if temporary.free < (1 - _FULLEST_DISK) * temporary.total:
        yield _warning(
            f"the disk of {temporary.path} is more than {_FULLEST_DISK:.0%} full, so Ray does not write "
            "objects to it: free space there, or set RAY_TMPDIR to another disk"
        )


def _limits(node: NodeFacts) -> Iterator[Finding]:
    limits = node.limits
    if limits.open_files is not None and limits.open_files < _FEW_FILES:
        yield Finding(
            prevents=limits.open_files < _LEAST_FILES,
            sentence=f"a process may open {limits.open_files} files: {REMEDIES[errno.EMFILE]}, "
            "before `ray start` there",
        )
    if limits.processes is not None and limits.processes < _FEW_PROCESSES:
        yield _warning(
            f"this user may start {limits.processes} processes and threads: raise the limit, such as "
            "`ulimit -u 65536`, before `ray start` there"
        )
    if node.has_infiniband and limits.locked_bytes is not None:
        yield _warning(
            f"a process may lock {_size(limits.locked_bytes)} of memory, which is too little for NCCL on "
            "InfiniBand: `ulimit -l unlimited` before `ray start` there (--ulimit memlock=-1 of a container)"
        )


def _ports(node: NodeFacts, asked: Asked) -> Iterator[Finding]:
    for port in node.busy_ports:
        if port == asked.learner_port:
            yield _error(f"cluster.learner_port {port} is in use: choose another, or null for any that is free")
        elif option := HEAD_PORTS.get(port):
            yield _warning(f"port {port} is in use: `ray start --head` there needs another with {option}")


def _names(node: NodeFacts, has_others: bool) -> Iterator[Finding]:
    if node.address is None:
        yield _warning(f"its own name {node.host} does not resolve: add it to /etc/hosts there")
    elif has_others and ip_address(node.address).is_loopback:
        yield _warning(
            f"its own name {node.host} resolves to {node.address}, which other nodes cannot reach: correct "
            "/etc/hosts there, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME in cluster.environment"
        )
    if node.token is not None and not node.token.is_private:
        yield _warning(
            f"other users can read {node.token.path}, and run code on the cluster with it: "
            f"`chmod 600 {node.token.path}` there"
        )


def describe(node: NodeFacts) -> list[tuple[str, str]]:
    """The facts of a node as lines of a name and a text."""
    versions = ", ".join(f"{name} {version}" for name, version in node.versions.items())
    gpus = [f"torch {node.torch.gpus}", f"nvidia-smi {'-' if node.smi is None else len(node.smi)}"]
    gpus += [f"Ray {'-' if node.ray_gpus is None else node.ray_gpus}", f"vLLM on {node.vllm or '-'}"]
    limits = node.limits
    locked = "unlimited" if limits.locked_bytes is None else _size(limits.locked_bytes)
    return [
        ("versions", versions),
        ("driver", f"{node.torch.driver or 'none'}; torch is built for CUDA {node.torch.cuda or '-'}"),
        ("GPUs", "; ".join([", ".join(gpus), *dict.fromkeys(node.smi or ())])),
        ("space", "; ".join(f"{space.path} {_size(space.free)} free of {_size(space.total)}" for space in node.spaces)),
        (
            "limits",
            f"{_count(limits.open_files)} open files, {locked} locked, {_count(limits.processes)} processes",
        ),
        ("name", f"{node.host}, resolves to {node.address or 'nothing'}"),
        ("ports", f"in use: {', '.join(map(str, node.busy_ports)) or 'no port that a run asks for'}"),
        ("Ray token", node.token.path if node.token else "none"),
    ]


def _count(limit: int | None) -> str:
    return "unlimited" if limit is None else str(limit)


def _size(count: int) -> str:
    return f"{count / 1e6:.0f} MB" if count < 10**9 else f"{count / 1e9:,.0f} GB"
