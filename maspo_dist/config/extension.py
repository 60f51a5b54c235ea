"""`python:module:Name`: a loss, verifier, environment, tool, rollout engine or weight transport of the user's own.

The module must be importable on every node of the cluster.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from maspo_dist.errors import ConfigError

_PREFIX = "python:"
_FORM = re.compile(r"python:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_extension(name: str) -> bool:
    """Whether `name` is meant as `python:module:Name`."""
    return name.startswith(_PREFIX)


def check_form(name: str) -> str:
    """`name` itself. Raises ValueError where it is not of the form `python:module:Name`."""
    if not _FORM.fullmatch(name):
        raise ValueError(f"{name!r} is not of the form python:module:Name")
    return name


def one_of(*names: str) -> Callable[[str], str]:
    """A validator: the value must be one of `names` or `python:module:Name`."""

    def check(value: str) -> str:
        if is_extension(value):
            return check_form(value)
        if value not in names:
            raise ValueError(f"must be {', '.join(names)} or python:module:Name, got {value!r}")
        return value

    return check


def extension_files(tree: Mapping[str, Any]) -> dict[str, Path]:
    """By name, the files of the modules that `tree`, a configuration, names as `python:module:Name`.

    Left out is a module that is not there, or that has no file of its own. Importing a package may raise anything.
    """
    modules = {name.split(":")[1] for name in _FORM.findall(json.dumps(tree, default=str))}
    specs = {module: importlib.util.find_spec(module) for module in sorted(modules)}
    return {module: Path(spec.origin) for module, spec in specs.items() if spec is not None and spec.origin}


def load_extension(name: str, key: str) -> Any:
    """The object that `name` names. Raises ConfigError naming `key`, the configuration key, where there is none."""
    try:
        _, module_name, attribute = check_form(name).split(":")
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # The module is the user's: importing it may raise anything.
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        is_unknown = isinstance(error, ModuleNotFoundError) and error.name == module_name.partition(".")[0]
        fix = ": put the folder of the module on PYTHONPATH" if is_unknown else ""
        raise ConfigError(f"{key} is {name!r}, but importing {module_name} fails ({cause}){fix}") from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise ConfigError(f"{key} is {name!r}, but module {module_name} has no {attribute}") from None


def load_class(name: str, key: str, protocol: type[Any]) -> type[Any]:
    """The class that `name` names. Raises as `load_extension` does, and where it lacks a method of `protocol`."""
    part = load_extension(name, key)
    if not isinstance(part, type):
        raise ConfigError(f"{key} is {name!r}, which is no class: name one with the methods of {protocol.__name__}")
    methods = [method for method, value in vars(protocol).items() if callable(value) and not method.startswith("_")]
    missing = [method for method in methods if not callable(getattr(part, method, None))]
    if missing:
        contract = f"{protocol.__module__}.{protocol.__name__}"
        raise ConfigError(f"{key} is {name!r}, which lacks {', '.join(missing)}: add what {contract} describes")
    return part
