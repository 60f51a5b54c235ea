"""Which live run `maspo-dist scale RUN` means."""

from pathlib import Path

import pytest

from actors.commands import scaling
from maspo_dist.errors import PlacementError
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
