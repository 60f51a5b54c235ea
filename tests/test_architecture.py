"""Imports point one way; the pure library never loads an engine."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Who may import whom: a package may import those of lower rank and itself.
RANKS = {
    "maspo_dist.errors": 0,
    "maspo_dist.types": 0,
    "maspo_dist.config": 1,
    "maspo_dist.metrics": 2,
    "maspo_dist.algorithm": 3,
    "maspo_dist.reward": 3,
    "maspo_dist.data": 3,
    "maspo_dist.flow": 3,
    "actors.engines": 5,
}
SIBLINGS = ("maspo_dist.algorithm", "maspo_dist.reward", "maspo_dist.data", "maspo_dist.flow")
ENGINES = {"ray", "vllm", "deepspeed"}


def modules(package: str) -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def rank(module: str) -> int | None:
    matches = [value for name, value in RANKS.items() if module == name or module.startswith(name + ".")]
    return matches[0] if matches else None


@pytest.mark.parametrize("package", ["maspo_dist", "actors"])
def test_only_the_engines_folder_imports_vllm_and_deepspeed(package: str) -> None:
    for module, path in modules(package):
        roots = {name.partition(".")[0] for name in imports(path)}
        if not module.startswith("actors.engines"):
            assert not roots & {"vllm", "deepspeed"}, module


def test_the_library_imports_actors_only_in_its_command_line() -> None:
    for module, path in modules("maspo_dist"):
        roots = {name.partition(".")[0] for name in imports(path)}
        assert not roots & ENGINES, module
        if module != "maspo_dist.cli":
            assert "actors" not in roots, module


def test_imports_point_from_higher_to_lower_layers() -> None:
    for module, path in [*modules("maspo_dist"), *modules("actors")]:
        own = rank(module)
        if own is None:
            continue
        for name in imports(path):
            other = rank(name)
            if other is not None:
                assert other <= own, f"{module} imports {name}"
            sibling = next((package for package in SIBLINGS if name.startswith(package)), None)
            if sibling and any(module.startswith(package) for package in SIBLINGS):
                assert module.startswith(sibling), f"{module} imports its sibling {name}"


def test_only_cluster_makes_ray_actors() -> None:
    for module, path in modules("actors"):
        if module != "actors.cluster":
            assert "ray.remote(" not in path.read_text(), module


def test_importing_the_library_loads_no_engine() -> None:
    names = [module for module, _ in modules("maspo_dist") if not module.endswith("__main__")]
    code = f"import sys, importlib\nfor n in {names!r}: importlib.import_module(n)\n"
    code += "print(sorted({'ray', 'vllm'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().splitlines()[-1] == "[]"
