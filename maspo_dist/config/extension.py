"""`python:module:Name`: a part of the user's own, named in the configuration.

Losses, verifiers, rollout engines and weight transports can be named so. The module must be importable on
every node of the cluster.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

from maspo_dist.errors import ConfigError

_PREFIX = "python:"
_FORM = re.compile(r"python:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_extension(name: str) -> bool:
    """Whether `name` names a part of the user's own."""
    return name.startswith(_PREFIX)


def check_form(name: str) -> str:
    """`name` itself. Raises ValueError where it is not of the form `python:module:Name`."""
    if not _FORM.fullmatch(name):
        raise ValueError(f"{name!r} is not of the form python:module:Name")
    return name


def load_extension(name: str, key: str) -> Any:
    """The object that `name` names; `key` is the configuration key that holds it.

    Raises ConfigError where the module cannot be imported or lacks the object.
    """
    _, module_name, attribute = name.split(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # The module is the user's: importing it may raise anything.
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"{key} is {name!r}, but importing {module_name} fails ({cause})") from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise ConfigError(f"{key} is {name!r}, but module {module_name} has no {attribute}") from None
