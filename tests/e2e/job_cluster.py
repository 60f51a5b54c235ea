"""A Ray cluster that was there before the run, and the project as someone has it who submits to it."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import psutil
import pytest
from doubles.live_run import ROOT, descendants, subreaper

from maspo_dist.demo import DemoFiles

BIN = Path(sys.executable).parent


@pytest.fixture
def clone(tiny_demo: DemoFiles, tmp_path: Path) -> Path:
    """The project as someone has it who has run the smoke: the demo lies in .cache, which git ignores."""
    folder = tmp_path / "clone"
    for name in ("maspo_dist", "actors", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".gitignore", folder)
    shutil.copytree(tiny_demo.model.parent, folder / ".cache/demo/seed-0")
    (folder / ".cache/other").mkdir()
    (folder / ".cache/other/large").write_bytes(bytes(1 << 20))
    return folder


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """`ray start --head` with token authentication; gives the environment in which `ray` finds it."""
    (tmp_path / "token").write_text(secrets.token_hex(32))
    with ExitStack() as ports:
        port, dashboard, agent = (_free_port(ports) for _ in range(3))
    # The paths of Ray's sockets have to be short.
    session = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "RAY_USAGE_STATS_ENABLED": "0",
        # By itself Ray kills a job 3 s after it was asked to stop.
        "RAY_JOB_STOP_WAIT_TIME_S": "60",
        "RAY_TMPDIR": str(session),
    }
    options = [f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    options += [f"--temp-dir={session}", "--num-cpus=2", "--block"]
    with subreaper(), (tmp_path / "head.out").open("wb") as out:
        head = subprocess.Popen(
            [BIN / "ray", "start", "--head", *options], env=environment, cwd=tmp_path, stdout=out, stderr=out
        )
        try:
            _wait_for_port(dashboard, head)
            yield environment
        finally:
            head.send_signal(signal.SIGTERM)
            head.wait(60)
            for process in descendants():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            shutil.rmtree(session, ignore_errors=True)


def run_on(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """A command as one types it in a shell on that cluster."""
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def submit(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], deadline_s: float = 90.0
) -> subprocess.CompletedProcess[str]:
    """`ray job submit …` on that cluster, whose head listens some time before it has an agent that takes jobs."""
    deadline = time.monotonic() + deadline_s
    while True:
        done = run_on(command, folder, environment)
        if "submitted successfully" in done.stdout + done.stderr:
            return done
        assert time.monotonic() < deadline, f"no job within {deadline_s:g} s: {done.stdout}{done.stderr}"


def _free_port(held: ExitStack) -> int:
    probe = held.enter_context(closing(socket.socket()))
    probe.bind(("127.0.0.1", 0))
    port: int = probe.getsockname()[1]
    return port


def _wait_for_port(port: int, head: subprocess.Popen[bytes], deadline_s: float = 90.0) -> None:
    deadline = time.monotonic() + deadline_s
    while True:
        assert head.poll() is None, "the head of the cluster did not start"
        assert time.monotonic() < deadline, f"no cluster within {deadline_s:g} s"
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
