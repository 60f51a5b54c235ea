"""deploy/ray: the launcher's file fits Ray's own schema, and the script for nodes by hand starts what it says."""

from __future__ import annotations

import json
import os
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy/ray/start_node.sh"


@pytest.fixture(scope="module")
def launched() -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load((ROOT / "deploy/ray/cluster.yaml").read_text())
    return tree


def test_the_launchers_file_fits_rays_schema(launched: dict[str, Any]) -> None:
    schema = json.loads(files("ray.autoscaler").joinpath("ray-schema.json").read_text())
    jsonschema.Draft7Validator(schema).validate(launched)


def test_the_launched_nodes_have_roles_and_a_token(launched: dict[str, Any]) -> None:
    types = launched["available_node_types"]
    assert types[launched["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}
    assert {name: kind["labels"]["role"] for name, kind in types.items() if "labels" in kind} == {
        "learner": "learner",
        "rollout": "rollout",
    }
    assert types["rollout"]["min_workers"] < types["rollout"]["max_workers"]
    assert sum(kind["max_workers"] for kind in types.values()) == launched["max_workers"]
    starts = [launched[f"{role}_start_ray_commands"][-1] for role in ("head", "worker")]
    assert all(start.startswith("RAY_AUTH_MODE=token ") for start in starts)
    assert "--autoscaling-config=" in starts[0]


def test_the_launcher_finds_what_it_needs_in_the_image_and_may_mount_twice(launched: dict[str, Any]) -> None:
    """It copies files by rsync into the container, and its head starts nodes by boto3."""
    dockerfile = (ROOT / "deploy/docker/Dockerfile").read_text()
    assert "rsync" in dockerfile
    assert "boto3==" in dockerfile
    [mount] = launched["initialization_commands"]
    assert mount.startswith("mountpoint --quiet /runs || {")
    assert "chown 1000:1000 /runs" in mount


def start_node(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    programs = home / "programs"
    programs.mkdir(exist_ok=True)
    program = programs / "ray"
    program.write_text(
        '#!/bin/bash\necho "$RAY_AUTH_MODE $*"\n'
        '[ "$1" != get-auth-token ] || { mkdir -p ~/.ray; echo secret > ~/.ray/auth_token; }\n'
    )
    program.chmod(0o755)
    environment = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "HOME": str(home)}
    return subprocess.run([SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=30)


def test_the_head_gets_a_private_token_and_others_join_with_it(tmp_path: Path) -> None:
    refused = start_node(tmp_path, "10.0.0.1")
    assert refused.returncode == 2
    assert "scp 10.0.0.1:.ray/auth_token" in refused.stderr

    head = start_node(tmp_path)
    assert head.returncode == 0, head.stderr
    assert head.stdout == "token start --head --port=6379 --disable-usage-stats\n"
    assert (tmp_path / ".ray/auth_token").stat().st_mode & 0o777 == 0o600

    for address in ("10.0.0.1", "10.0.0.1:6379"):
        assert start_node(tmp_path, address).stdout == "token start --address=10.0.0.1:6379 --disable-usage-stats\n"
