"""What a node is asked about the model, and under which path."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from actors.ray import model_on_nodes
from actors.ray.model_on_nodes import missing_model, path_for_actors, require_model_on_nodes
from maspo_dist.errors import DeadlineError


@pytest.mark.parametrize(
    ("path", "environment", "wanted"),
    [
        ("folder/of/model", {}, "HERE/folder/of/model"),
        ("folder/of/model", {"working_dir": "gcs://package.zip"}, "folder/of/model"),
        ("/models/qwen", {}, "/models/qwen"),
        ("Qwen/Qwen2.5-7B", {}, "Qwen/Qwen2.5-7B"),
    ],
)
def test_a_relative_folder_is_made_absolute_except_in_a_job(
    path: str, environment: dict[str, str], wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    context = SimpleNamespace(runtime_env=environment)
    monkeypatch.setattr(model_on_nodes.ray, "get_runtime_context", lambda: context)
    assert path_for_actors(path) == wanted.replace("HERE", str(tmp_path.resolve()))


def test_a_node_says_what_is_wrong_with_the_folder(tmp_path: Path) -> None:
    assert missing_model(str(tmp_path)) == (
        f"model.path {tmp_path} holds no config.json, so it is not a Hugging Face model folder"
    )
    (tmp_path / "config.json").write_text("{}")
    assert missing_model(str(tmp_path)) is None


def test_a_model_of_the_hub_is_downloaded_once_by_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    def download(path: str, ignore_patterns: list[str]) -> None:
        fetched.append(path)
        if path == "org/gone":
            raise OSError("no such repository: org/gone")
        if path == "org/cut-off":
            raise RuntimeError("the connection was reset\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert missing_model("org/model") is None
    assert missing_model("org/gone") == "it cannot be downloaded (OSError: no such repository: org/gone)"
    assert missing_model("org/cut-off") == "it cannot be downloaded (RuntimeError: the connection was reset)"
    assert fetched == ["org/model", "org/gone", "org/cut-off"]


async def test_a_download_that_takes_too_long_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never() -> None:
        await asyncio.sleep(60)

    task = SimpleNamespace(remote=lambda path: never())
    node = {"NodeID": "b", "NodeManagerAddress": "10.0.0.2", "Alive": True, "Resources": {"GPU": 8}}
    monkeypatch.setattr(model_on_nodes.ray, "remote", lambda _: SimpleNamespace(options=lambda **_: task))
    monkeypatch.setattr(model_on_nodes.ray, "nodes", lambda: [node])
    monkeypatch.setattr(model_on_nodes, "NodeAffinitySchedulingStrategy", lambda *_, soft: None)
    with pytest.raises(
        DeadlineError, match=r"node 10\.0\.0\.2: model org/model: .+ \(cluster\.start_timeout_s\): raise it, or"
    ):
        await require_model_on_nodes("org/model", "cuda", {}, 0.01)
