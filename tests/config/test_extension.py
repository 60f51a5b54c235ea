"""`python:module:Name` finds the user's object, or says what is wrong in one sentence."""

import math
from pathlib import Path

import pytest

from maspo_dist.config.extension import check_form, is_extension, load_extension
from maspo_dist.errors import ConfigError


def test_a_name_with_the_prefix_is_an_extension() -> None:
    assert is_extension("python:math:sqrt")
    assert not is_extension("math")


def test_a_name_leads_to_its_object() -> None:
    assert load_extension("python:math:sqrt", "algorithm.loss.kind") is math.sqrt


@pytest.mark.parametrize("name", ["python:math", "python::sqrt", "python:math:", "python:a-b:c", "math:sqrt"])
def test_a_name_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not of the form python:module:Name"):
        check_form(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("python:no_such_module:Loss", r"algorithm.loss.kind is .* importing no_such_module fails \(ModuleNotFound"),
        ("python:math:Loss", r"algorithm.loss.kind is 'python:math:Loss', but module math has no Loss"),
        ("python:broken_module:Loss", r"importing broken_module fails \(ZeroDivisionError: division by zero\)"),
    ],
)
def test_a_missing_module_or_object_is_named(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=said):
        load_extension(name, "algorithm.loss.kind")
