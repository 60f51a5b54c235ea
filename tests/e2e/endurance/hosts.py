"""Hosts on one machine, with a Ray node on each.

A host is a set of namespaces, which a sleeping process keeps. It has an address, a name, /dev/shm and a temporary
folder of its own, and shares all other folders. A bridge on the first host connects them. This takes root, or a kernel
that lets users make namespaces, and the programs ip (iproute2), nsenter, unshare and mount (util-linux).
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from doubles.live_run import ROOT, descendants, subreaper

_NAMESPACES = ("--net", "--mount", "--uts")
_USER = () if os.geteuid() == 0 else ("--user",)
_PORT = 6379
_START_S, _END_S = 90.0, 10.0
#: Of a command, on a busy machine.
DEADLINE_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """`keeper` is the process that keeps its namespaces."""

    name: str
    address: str
    keeper: int

    def command(self, *arguments: str) -> list[str]:
        """`arguments` as a command on this host. Its working directory is the root folder."""
        user = ("--user", "--preserve-credentials") if _USER else ()
        return ["nsenter", f"--target={self.keeper}", *user, *_NAMESPACES, "--", *arguments]

    def run(self, *arguments: str) -> None:
        """Runs a short command, which must end well."""
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, f"{self.name}: {' '.join(arguments)}: {done.stderr}"

    def hide(self, folder: Path) -> None:
        """Mounts an empty folder over `folder`."""
        self.run("mount", "-t", "tmpfs", "-o", "size=1g", "none", str(folder))

    def show(self, folder: Path) -> None:
        """Ends `hide`."""
        self.run("umount", "--lazy", str(folder))

    def holds(self, pid: int) -> bool:
        """Whether process `pid` is on this host."""
        return Path(f"/proc/{pid}/ns/net").readlink() == Path(f"/proc/{self.keeper}/ns/net").readlink()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """`environment` is that of commands that join the cluster."""

    hosts: tuple[Host, ...]
    environment: Mapping[str, str]

    def start(self, host: Host, *arguments: str) -> subprocess.Popen[str]:
        """`maspo-dist ARGUMENTS` on `host`; output and errors go to one pipe."""
        return subprocess.Popen(
            host.command(sys.executable, "-m", "actors.cli", *arguments),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def call(self, host: Host, *arguments: str) -> tuple[int, str]:
        """The exit code of `maspo-dist ARGUMENTS` on `host`, and what it printed."""
        with self.start(host, *arguments) as process:
            try:
                output, _ = process.communicate(timeout=DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return process.returncode, output


@contextmanager
def ray_on_hosts(names: Sequence[str], folder: Path) -> Iterator[Cluster]:
    """A Ray node on each of the hosts `names`, labelled host=NAME; the first is the head."""
    # The paths of Ray's sockets have to be short.
    session = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    with subreaper(), ExitStack() as keepers:
        try:
            hosts = _make_hosts(names, session, folder, keepers)
            environment = {
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "RAY_ADDRESS": f"{hosts[0].address}:{_PORT}",
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": secrets.token_hex(32),
                "RAY_USAGE_STATS_ENABLED": "0",
                "RAY_TMPDIR": str(session),
                "RAY_worker_niceness": "0",
            }
            _start_ray(hosts, session, environment, folder)
            yield Cluster(hosts=hosts, environment=environment)
        finally:
            _end(descendants())
            shutil.rmtree(session, ignore_errors=True)


def _end(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, living = psutil.wait_procs(processes, timeout=_END_S)
    for process in living:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    _, living = psutil.wait_procs(living, timeout=_END_S)
    assert not living, f"these processes did not end: {living}"


def _make_hosts(names: Sequence[str], session: Path, folder: Path, keepers: ExitStack) -> tuple[Host, ...]:
    hosts: list[Host] = []
    addresses = {name: f"10.77.0.{number}" for number, name in enumerate(names, start=1)}
    book = folder / "hosts"
    book.write_text("127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in addresses.items()))
    for name, address in addresses.items():
        make = ["unshare", *_NAMESPACES, "sleep", "infinity"]
        # Users may join only the namespaces that are in theirs.
        make = (
            hosts[0].command(*make) if hosts else [make[0], *_USER, *(["--map-root-user"] if _USER else []), *make[1:]]
        )
        keeper = keepers.enter_context(subprocess.Popen(make, stdin=subprocess.DEVNULL))
        host = Host(name=name, address=address, keeper=keeper.pid)
        _wait_for_namespaces(host)
        hosts.append(host)
        _join(hosts[0], host)
        host.run("hostname", name)
        host.run("mount", "--bind", str(book), "/etc/hosts")
        host.hide(Path("/dev/shm"))
        host.hide(session)
    return tuple(hosts)


def _wait_for_namespaces(host: Host) -> None:
    deadline_s = time.monotonic() + 10
    while Path(f"/proc/{host.keeper}/comm").read_text().strip() != "sleep":
        assert time.monotonic() < deadline_s, f"{host.name}: no namespaces; this takes root, or user namespaces"
        time.sleep(0.02)


def _join(head: Host, host: Host) -> None:
    """Gives `host` its address, on the bridge of `head`."""
    host.run("ip", "link", "set", "lo", "up")
    if host is head:
        head.run("ip", "link", "add", "eth0", "type", "bridge")
    else:
        end = f"to-{host.name}"[:15]
        head.run("ip", "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", str(host.keeper))
        head.run("ip", "link", "set", end, "master", "eth0", "up")
    host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
    host.run("ip", "link", "set", "eth0", "up")
    # Programs find their own address by a route to anywhere.
    host.run("ip", "route", "add", "default", "dev", "eth0")


def _start_ray(hosts: Sequence[Host], session: Path, environment: Mapping[str, str], folder: Path) -> None:
    for host in hosts:
        is_head = host is hosts[0]
        place = (
            ["--head", f"--port={_PORT}", f"--temp-dir={session}", "--include-dashboard=false"]
            if is_head
            else [f"--address={environment['RAY_ADDRESS']}"]
        )
        options = [f"--node-ip-address={host.address}", "--num-cpus=2", "--object-store-memory=200000000"]
        options += [f"--labels=host={host.name}", "--disable-usage-stats"]
        log = folder / f"{host.name}.out"
        with log.open("wb") as out:
            done = subprocess.run(
                host.command(str(Path(sys.executable).parent / "ray"), "start", *place, *options),
                env={name: value for name, value in environment.items() if name != "RAY_ADDRESS"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                timeout=_START_S,
            )
        assert done.returncode == 0, log.read_text()
