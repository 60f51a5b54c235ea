"""A run whose driver, learner and rollout worker are on three hosts with addresses of their own."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hosts import DEADLINE_S, Cluster, Host, ray_on_hosts

from maspo_dist.demo import DemoFiles
from maspo_dist.runs.folder import RunFolder

NAMES = ("driver", "learner", "rollout")
PLACES = "cluster.labels={verifier: {host: driver}, learner: {host: learner}, rollout: {host: rollout}}"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ray_on_hosts(NAMES, tmp_path_factory.mktemp("hosts")) as cluster:
        yield cluster


def arguments(config: Path, runs: Path, *overrides: str) -> list[str]:
    return ["train", str(config), f"run.dir={runs}", "run.name=far", PLACES, *overrides]


def test_a_run_over_hosts_trains_publishes_saves_and_resumes(
    cluster: Cluster, tiny_config: Path, tmp_path: Path
) -> None:
    driver, learner, rollout = cluster.hosts
    saving = ("checkpoint.every=1", "checkpoint.resume=auto")
    process = cluster.start(driver, *arguments(tiny_config, tmp_path, *saving))
    found: dict[str, Host | None] = {"ray::Learner": None, "ray::RolloutActor": None}
    deadline_s = time.monotonic() + DEADLINE_S
    while process.poll() is None and not all(found.values()) and time.monotonic() < deadline_s:
        found |= {role: place for role in found if (place := host_of(role, cluster)) is not None}
        time.sleep(0.2)
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, output
    assert found == {"ray::Learner": learner, "ray::RolloutActor": rollout}

    code, output = cluster.call(driver, *arguments(tiny_config, tmp_path, *saving, "run.max_steps=3"))
    assert code == 0, output
    folder = RunFolder(tmp_path / "far")
    rows = list(folder.read_metrics())
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert "after step 2" in [event["message"] for event in folder.read_events() if event["kind"] == "resumed"]
    assert all(row["learner/grad_norm"] > 0 and row["sync/max_logprob_gap"] < 0.01 for row in rows[1:])
    assert folder.checkpoints_path.joinpath("step-000003").is_dir()


def host_of(role: str, cluster: Cluster) -> Host | None:
    """The host of a process whose name begins with `role`."""
    for process in psutil.process_iter():
        try:
            if "".join(process.cmdline()[:1]).startswith(role):
                return next((host for host in cluster.hosts if host.holds(process.pid)), None)
        except (psutil.NoSuchProcess, OSError):
            continue
    return None


def test_a_run_folder_that_a_node_does_not_share_is_refused_at_the_start(
    cluster: Cluster, tiny_config: Path, tmp_path: Path
) -> None:
    driver, learner, _ = cluster.hosts
    learner.hide(tmp_path)
    try:
        code, output = cluster.call(driver, *arguments(tiny_config, tmp_path))
    finally:
        learner.show(tmp_path)
    assert code == 2
    assert (
        f"error: {tmp_path}/far/logs on node {learner.address} is not the folder that the driver wrote to: "
        "set run.dir to a folder on storage that all nodes share\n"
    ) in output
    assert list(RunFolder(tmp_path / "far").read_metrics()) == []


def test_a_node_without_the_model_is_named_by_a_run_and_by_an_evaluation(
    cluster: Cluster, tiny_config: Path, tiny_demo: DemoFiles, tmp_path: Path
) -> None:
    driver, _, rollout = cluster.hosts
    model = tmp_path / "models" / "demo"
    shutil.copytree(tiny_demo.model, model)
    evaluation = ["eval", "--model", str(model), "--data", str(tiny_demo.heldout), "--to", str(tmp_path / "out")]
    evaluation += ["--max-response-tokens", "20"]
    rollout.hide(model.parent)
    try:
        outputs = [
            cluster.call(driver, *command)
            for command in (arguments(tiny_config, tmp_path, f"model.path={model}"), evaluation)
        ]
    finally:
        rollout.show(model.parent)
    for code, output in outputs:
        assert code == 2, output
        assert (f"error: node {rollout.address} lacks the model: model.path {model} does not exist; ") in output
        assert "every node needs it at this path\n" in output
