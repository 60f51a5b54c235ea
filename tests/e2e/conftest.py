"""A demo small enough for a run of seconds, and real runs of it.

`launcher.start(name, *overrides)` and `launcher.train(name, *overrides)` call the command line with real Ray,
vLLM and DeepSpeed; `tiny_config` is what they run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from doubles.live_run import ROOT, Launcher, LiveRun, subreaper
from doubles.tiny_recipe import TINY, TINY_RUN
from job_cluster import clone, cluster  # noqa: F401 (fixtures)

from maspo_dist.demo import DemoFiles, make_demo


@pytest.fixture(scope="session")
def tiny_demo(tmp_path_factory: pytest.TempPathFactory) -> DemoFiles:
    return make_demo(tmp_path_factory.mktemp("demo"), 0, TINY)


@pytest.fixture(scope="session")
def tiny_config(tiny_demo: DemoFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke's configuration with the tiny demo, cut down to the least that is a whole run."""
    tree = yaml.safe_load((ROOT / "configs/local_smoke.yaml").read_text(encoding="utf-8"))
    tree["model"] |= {"path": str(tiny_demo.model)}
    tree["data"] |= {"train": [str(tiny_demo.train)], "eval": {"addition": str(tiny_demo.heldout)}}
    for section, values in TINY_RUN.items():
        tree[section] |= values
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


@pytest.fixture
def launcher(tiny_config: Path, tmp_path: Path) -> Iterator[Launcher]:
    yield from _launcher(tiny_config, tmp_path)


@pytest.fixture(scope="session")
def whole_run(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> LiveRun:
    """`tiny_config` from its start to a good end, once for all tests that look at such a run.

    The environment is that of some containers: no name of a user, and a temporary folder that does not exist.
    """
    folder = tmp_path_factory.mktemp("whole")
    bare = {"USER": "", "LOGNAME": "", "TMPDIR": str(folder / "none"), "RAY_TMPDIR": "/tmp"}
    with contextmanager(_launcher)(tiny_config, folder) as launcher:
        exported = ("logging.prometheus_port=0", "cluster.heartbeat_s=0.5")
        return launcher.train("whole", *exported, environment=bare)


def _launcher(config: Path, folder: Path) -> Iterator[Launcher]:
    launcher = Launcher(config, folder / "runs")
    with subreaper():
        try:
            yield launcher
        finally:
            launcher.close()
