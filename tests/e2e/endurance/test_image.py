"""The CPU image is built from the Dockerfile without a daemon; its user checks and trains the demo in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from doubles.live_run import ROOT

DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
IMAGE = "maspo-dist:cpu"
_BUILD_S, _RUN_S = 1500.0, 500.0
_QUICK = ("run.dir=/tmp/runs", "run.max_steps=2", "rollout.prompts_per_step=4", "evaluation.every=null", "data.eval={}")

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("buildah") or not shutil.which("mmdebstrap"),
    reason="needs root and the packages buildah and mmdebstrap",
)


class Builder:
    """buildah with a storage of its own."""

    def __init__(self, folder: Path) -> None:
        self._command = ("buildah", "--root", str(folder / "root"), "--runroot", str(folder / "runroot"))

    def __call__(self, *arguments: str, timeout_s: float = 300.0) -> str:
        """What it prints to its standard output."""
        done = subprocess.run(
            [*self._command, *arguments],
            cwd=ROOT,
            env={**os.environ, "STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return done.stdout.strip()


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Builder, str]]:
    """A container of the image. The base comes from Debian's packages, so that no registry of images is needed."""
    folder = tmp_path_factory.mktemp("image")
    builder = Builder(folder)
    [base] = {line.split()[1] for line in DOCKERFILE.read_text().splitlines() if line.startswith("FROM debian:")}
    archive = folder / "base.tar"
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates", "bookworm", str(archive)],
        stdin=subprocess.DEVNULL,
        check=True,
        timeout=300,
    )
    scratch = builder("from", "scratch")
    builder("add", "--quiet", scratch, str(archive), "/")
    builder("commit", "--quiet", scratch, f"docker.io/library/{base}")
    builder("rm", scratch)
    volumes = [f"--volume={path}:{path}:ro" for path in _ways_to_packages()]
    arguments = ("--pull-never", "--layers=false", "--build-arg=KIND=cpu", f"--tag={IMAGE}", f"--file={DOCKERFILE}")
    builder("bud", *arguments, *volumes, ".", timeout_s=_BUILD_S)
    yield builder, builder("from", "--pull-never", IMAGE)
    shutil.rmtree(folder, ignore_errors=True)


def _ways_to_packages() -> list[Path]:
    """Files and folders by which this machine reaches packages: certificates, settings of apt and pip, local wheels."""
    settings = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    words = settings.stdout.replace("'", " ").replace("=", " ").replace("file://", " ").split()
    named = {Path(word) for word in words if word.startswith("/")}
    known = {Path(name) for name in ("/etc/ssl/certs", "/etc/apt/apt.conf.d", "/etc/pip.conf", "/etc/xdg/pip")}
    return sorted(path for path in named | known if path.exists())


def test_its_user_is_not_root_and_the_programs_are_on_the_path(container: tuple[Builder, str]) -> None:
    builder, name = container
    assert builder("run", name, "--", "id", "-u") == "1000"
    assert builder("run", name, "--", "bash", "-lc", "command -v ray maspo-dist") == (
        "/opt/maspo/bin/ray\n/opt/maspo/bin/maspo-dist"
    )


def test_the_demo_is_made_checked_and_trained_in_it(container: tuple[Builder, str]) -> None:
    builder, name = container
    builder("run", name, "--", "maspo-dist", "demo", "/tmp/demo", timeout_s=_RUN_S)
    config = "/tmp/demo/seed-0/config.yaml"
    assert "valid" in builder("run", name, "--", "maspo-dist", "check", config, *_QUICK, timeout_s=_RUN_S)
    train = ("maspo-dist", "train", config, "run.name=in-image", *_QUICK)
    builder("run", name, "--", *train, timeout_s=_RUN_S)
    metrics = builder("run", name, "--", "cat", "/tmp/runs/in-image/metrics.jsonl").splitlines()
    assert len(metrics) == 2
