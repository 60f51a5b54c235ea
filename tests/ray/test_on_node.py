"""A run folder that is not shared is refused in one sentence that names the node."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.ray import on_node
from maspo_dist.errors import PlacementError


@pytest.fixture(autouse=True)
def _address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_node.ray.util, "get_node_ip_address", lambda: "10.0.0.7")


def test_a_folder_with_the_token_of_the_driver_is_shared(tmp_path: Path) -> None:
    first = on_node.write_token(tmp_path / "logs")
    second = on_node.write_token(tmp_path / "logs")
    assert first != second
    on_node.require_shared(tmp_path / "logs", second, visible_s=0)


@pytest.mark.parametrize("is_old", [False, True], ids=["no token", "the token of an earlier start"])
def test_another_folder_at_the_same_path_is_refused(tmp_path: Path, is_old: bool) -> None:
    token = on_node.write_token(tmp_path / "driver")
    if is_old:
        on_node.write_token(tmp_path / "logs")
    with pytest.raises(PlacementError) as refused:
        on_node.require_shared(tmp_path / "logs", token, visible_s=0.15)
    assert str(refused.value) == (
        f"{tmp_path}/logs on node 10.0.0.7 is not the folder that the driver wrote to: "
        "set run.dir to a folder on storage that all nodes share"
    )
