"""The wheel holds every file of the packages that is read at run time."""

from __future__ import annotations

import zipfile
from pathlib import Path

from doubles.wheel import ROOT, build_wheel


def test_the_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    expected = {
        str(path.relative_to(ROOT))
        for package in ("maspo_dist", "actors")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md"
    }
    with zipfile.ZipFile(build_wheel(tmp_path)) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
        entry_points = wheel.read(next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))).decode()
    assert held == expected
    assert "maspo-dist = actors.cli:main" in entry_points
