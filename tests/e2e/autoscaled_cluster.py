"""A Ray cluster on this machine: a head, and nodes that Ray's autoscaler starts and ends by its fake provider."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
import yaml

#: The head's number; the provider numbers nodes upwards from it.
_HEAD = "f" * 51 + "00000"
#: Ray ends a node that has been idle for so long.
IDLE_S = 30.0
_STORE_BYTES = 150_000_000
_START_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node of one of the cluster's kinds."""

    kind: str
    raylet: psutil.Process

    def has_engine(self) -> bool:
        """Whether a rollout worker runs on it."""
        return any("RolloutActor" in " ".join(process.cmdline()) for process in _children(self.raylet))


class AutoscaledCluster:
    """`environment` is what commands need to join the cluster."""

    def __init__(self, session: Path, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self._session = session

    def nodes(self) -> list[Node]:
        """The living nodes that the autoscaler has started."""
        found = []
        for process in self.processes():
            with suppress(psutil.Error):
                variables = process.environ() if process.name() == "raylet" else {}
                if variables.get("RAY_CLOUD_INSTANCE_ID", _HEAD) != _HEAD:
                    found.append(Node(kind=variables["RAY_NODE_TYPE_NAME"], raylet=process))
        return found

    def processes(self) -> list[psutil.Process]:
        """The cluster's own processes, by a variable that they inherit: they have no common parent."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("RAY_TMPDIR") == str(self._session):
                    found.append(process)
        return found

    def end(self) -> None:
        """Kills all processes. Those of actors change their names, and their variables with them."""
        own = self.processes()
        for process in own + [child for one in own for child in _children(one)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        shutil.rmtree(self._session, ignore_errors=True)


@contextmanager
def autoscaled_cluster(
    head: Mapping[str, Any], kinds: Mapping[str, Any], *, is_v2: bool = True
) -> Iterator[AutoscaledCluster]:
    """Starts a head with the CPUs and labels of `head`, and Ray's newer or older autoscaler for nodes of `kinds`.

    `kinds` are Ray's `available_node_types`; each node gets an object store as well. The cluster must be up before this
    process becomes a subreaper: a run takes all descendants of a subreaper for its own.
    """
    # The paths of Ray's sockets have to be short.
    session = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    with ExitStack() as ports:
        port, client_port = _free_port(ports), _free_port(ports)
    address = f"{ray.util.get_node_ip_address()}:{port}"
    environment = {
        "RAY_ADDRESS": address,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_TMPDIR": str(session),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
    }
    cluster = AutoscaledCluster(session, environment)
    description = session / "autoscaler.yaml"
    description.write_text(yaml.safe_dump(_description(address, kinds)))
    options = [f"--autoscaling-config={description}", f"--port={port}", f"--ray-client-server-port={client_port}"]
    options += [f"--temp-dir={session}", f"--object-store-memory={_STORE_BYTES}", "--include-dashboard=false"]
    options += [f"--num-cpus={head['CPU']}", "--labels=" + ",".join(f"{k}={v}" for k, v in head["labels"].items())]
    of_head = {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1" if is_v2 else "0",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_CLOUD_INSTANCE_ID": _HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD,
    }
    try:
        with (session / "head.out").open("wb") as out:
            done = subprocess.run(
                [Path(sys.executable).parent / "ray", "start", "--head", *options],
                env={**os.environ, **environment, **of_head, "RAY_ADDRESS": ""},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                timeout=_START_S,
            )
        assert done.returncode == 0, (session / "head.out").read_text()
        yield cluster
    finally:
        cluster.end()


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _description(address: str, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """What `ray start --autoscaling-config` reads; the fake provider has no example of it in Ray's wheel."""
    types = {
        name: {**kind, "node_config": {}, "resources": {**kind["resources"], "object_store_memory": _STORE_BYTES}}
        for name, kind in kinds.items()
    }
    types["ray.head.default"] = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    empty_lists = ("setup_commands", "initialization_commands", "head_setup_commands", "worker_setup_commands")
    empty_lists += ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files")
    return {
        "cluster_name": "fake",
        "max_workers": sum(kind["max_workers"] for kind in kinds.values()),
        "idle_timeout_minutes": IDLE_S / 60,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "launch_multiple": True,
            "head_node_id": _HEAD,
            "gcs_address": address,
        },
        "available_node_types": types,
        "head_node_type": "ray.head.default",
        "auth": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        **{name: [] for name in empty_lists},
    }


def _free_port(held: ExitStack) -> int:
    probe = held.enter_context(closing(socket.socket()))
    probe.bind(("", 0))
    port: int = probe.getsockname()[1]
    return port
