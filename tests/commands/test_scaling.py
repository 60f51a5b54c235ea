"""Which live run `maspo-dist scale RUN` means."""

from pathlib import Path

import pytest
import ray

from actors.commands import scaling
from actors.ray.connection import connect_to_run
from maspo_dist.errors import PlacementError, UserError
from maspo_dist.runs.folder import RunFolder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str | None]:
    """The address that was joined and the run that was looked for there. The run `clip` has a folder."""
    asked: list[str | None] = []

    def find_control(name: str) -> None:
        asked.append(name)
        raise PlacementError(f"no live run is called {name}")

    monkeypatch.setattr(scaling, "connect_to_run", asked.append)
    monkeypatch.setattr(scaling, "find_control", find_control)
    monkeypatch.setattr(scaling, "disconnect", lambda: None)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with RunFolder.create(tmp_path / "runs" / "clip") as folder:
        folder.write_config("run: {name: clip}\n")
        folder.write_address("node:6379")
    monkeypatch.chdir(folder.path)
    return asked


@pytest.mark.parametrize("run", [".", "../clip", "../clip/", "checkpoints/.."])
def test_a_folder_means_its_run_on_the_cluster_that_it_names(run: str, asked: list[str | None]) -> None:
    Path("checkpoints").mkdir(exist_ok=True)
    with pytest.raises(PlacementError):
        scaling.request_workers(run, 2, print)
    assert asked == ["node:6379", "clip"]


@pytest.mark.parametrize("run", ["other", "runs/other"])
def test_a_name_without_a_folder_means_the_run_on_the_cluster_at_ray_address(run: str, asked: list[str | None]) -> None:
    with pytest.raises(PlacementError):
        scaling.request_workers(run, 2, print)
    assert asked == ["head:6379", "other"]


def unreachable(address: str | None) -> None:
    raise PlacementError(f"no Ray cluster answers at {address}")


def test_a_run_that_has_ended_is_named_as_not_running(asked: list[str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "connect_to_run", unreachable)
    with pytest.raises(
        UserError, match=r"^run clip is not running: only a live run can be scaled, so resume it first$"
    ):
        scaling.request_workers(".", 2, print)


def test_a_live_run_whose_cluster_cannot_be_joined_says_why(
    asked: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "connect_to_run", unreachable)
    monkeypatch.setattr(RunFolder, "in_use", True)
    with pytest.raises(PlacementError, match=r"^no Ray cluster answers at node:6379$"):
        scaling.request_workers(".", 2, print)


def test_a_run_that_is_nowhere_is_no_folder_and_has_no_cluster(
    asked: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_none(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance. Please specify the one by setting `--address`")

    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr(scaling, "connect_to_run", connect_to_run)
    monkeypatch.setattr(ray, "init", find_none)
    with pytest.raises(UserError) as caught:
        scaling.request_workers("runs/other", 2, print)
    assert str(caught.value) == (
        "runs/other is no run folder, and no run is found by its name: RAY_ADDRESS is not set, and this machine has no "
        "Ray cluster, or several: set it to HOST:PORT of the run's"
    )
