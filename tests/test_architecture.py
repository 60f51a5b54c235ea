"""The layout of the two packages: who may import whom, where Ray and the engines are used, and how large a file is."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: The layers of each package, lowest first. A room imports rooms of lower layers only, and no room of its own layer.
LIBRARY = (
    ("errors", "types"),
    ("config", "flow"),
    ("algorithm", "data", "models", "reward"),
    ("environments",),
    ("demo", "runs"),
    ("evaluation", "planning", "views"),
    ("compare",),
)
APPLICATION = (
    ("interfaces",),
    ("ray", "weights"),
    ("engines", "verifier"),
    ("learner", "rollout"),
    ("controller", "evaluation"),
    ("warm",),
    ("processes",),
    ("bench", "commands"),
    ("cli",),
)
LAYERS = {"maspo_dist": LIBRARY, "actors": APPLICATION}
FOLDERS = [path for package in LAYERS for path in sorted((ROOT / package).rglob("__init__.py"))]
#: Where a plain class or function becomes a Ray actor or task.
MAKES_ACTORS = {"actors.processes", "actors.evaluation.cluster"}


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


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def layer(package: str, name: str) -> int:
    return next(number for number, rooms in enumerate(LAYERS[package]) if name in rooms)


@pytest.mark.parametrize("package", LAYERS)
def test_every_room_has_a_layer(package: str) -> None:
    known = {name for rooms in LAYERS[package] for name in rooms}
    assert {room(module) for module, _ in modules(package)} - {""} == known


@pytest.mark.parametrize("package", LAYERS)
def test_imports_point_from_higher_to_lower_layers(package: str) -> None:
    for module, path in modules(package):
        for name in imports(path):
            inside = name.startswith(package + ".") and room(name) != room(module)
            if inside and room(module):
                assert layer(package, room(name)) < layer(package, room(module)), f"{module} imports {name}"


def test_the_library_imports_neither_the_application_nor_an_engine() -> None:
    for module, path in modules("maspo_dist"):
        roots = {name.partition(".")[0] for name in imports(path)}
        assert not roots & {"actors", "ray", "vllm", "deepspeed"}, module


def test_only_the_engines_and_their_bench_import_vllm_and_deepspeed() -> None:
    for module, path in modules("actors"):
        roots = {name.partition(".")[0] for name in imports(path)}
        if room(module) not in ("engines", "bench"):
            assert not roots & {"vllm", "deepspeed"}, module


def test_ray_actors_are_made_in_few_places() -> None:
    for module, path in modules("actors"):
        if module not in MAKES_ACTORS and room(module) not in ("ray", "bench"):
            assert "ray.remote(" not in path.read_text(), module


@pytest.mark.parametrize("package", LAYERS)
def test_no_file_is_longer_than_400_lines_and_no_function_longer_than_60(package: str) -> None:
    for module, path in modules(package):
        text = path.read_text()
        assert text.count("\n") <= 400, module
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{module}.{node.name}"


def loaded(imported: list[str], names: set[str]) -> str:
    """Those of `names` that are loaded in a fresh process after it has imported `imported`, as Python prints a list."""
    code = f"import sys, importlib\nfor n in {imported!r}: importlib.import_module(n)\n"
    code += f"print(sorted({names!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=400, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip().splitlines()[-1]


def test_importing_the_library_loads_no_engine() -> None:
    names = [module for module, _ in modules("maspo_dist") if not module.endswith("__main__")]
    assert loaded(names, {"ray", "vllm"}) == "[]"


@pytest.mark.parametrize("init", FOLDERS, ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_the_docstring_of_a_folder_lists_its_modules(init: Path) -> None:
    if init.parent == ROOT / "maspo_dist":
        return  # It lists what the library offers; CONTRIBUTING.md has the map.
    listed = ast.get_docstring(ast.parse(init.read_text())) or ""
    modules = {path.stem for path in init.parent.glob("*.py")} - {"__init__"}
    modules |= {path.parent.name for path in init.parent.glob("*/__init__.py")}
    assert not {name for name in modules if not re.search(rf"\b{name}\b", listed)}


def test_an_actor_loads_torch_only_with_its_engine() -> None:
    names = [f"actors.{room}.actor" for room in ("learner", "rollout", "verifier")]
    assert loaded(names, {"torch", "transformers", "vllm"}) == "[]"
