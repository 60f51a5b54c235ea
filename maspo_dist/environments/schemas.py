"""Describes tools to the model: JSON schemas, made from the types and docstrings of functions."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from transformers.utils import get_json_schema
from transformers.utils.chat_template_utils import DocstringParsingException, TypeHintParsingException

from maspo_dist.config.environment import EnvironmentConfig, is_server
from maspo_dist.environments.registry import environment_maker
from maspo_dist.environments.tools import PythonTool, load_tools
from maspo_dist.errors import ConfigError


def require_environment(config: EnvironmentConfig | None) -> None:
    """Imports the environment or tools of `config` and checks their contract, without making any. A server must answer.

    Raises ConfigError with one sentence that names the key.
    """
    if config is not None:
        environment_maker(config)
        if is_server(config.kind):
            # Its module imports websockets, which other environments do not need.
            importlib.import_module("maspo_dist.environments.openenv").require_server(config.kind, "environment.kind")
        tool_schemas(config)


def tool_schemas(config: EnvironmentConfig | None) -> list[dict[str, Any]]:
    """One JSON schema per tool, as chat templates take them in `tools`; empty where there are none.

    Raises ConfigError for a function without types, or without a docstring that describes each argument.
    """
    if config is None or config.kind != "tools":
        return []
    schemas = []
    for name, tool in zip(config.tools, load_tools(config), strict=True):
        owner = PythonTool if name == "python" else tool.found
        functions = [getattr(owner, method) for method in tool.methods] or [tool.found]
        schemas += [_schema(function, tool.key, name) for function in functions]
    return schemas


def _schema(function: Callable[..., Any], key: str, name: str) -> dict[str, Any]:
    try:
        schema: dict[str, Any] = get_json_schema(function)
    except (DocstringParsingException, TypeHintParsingException, NameError, TypeError) as error:
        if inspect.getdoc(function) is None:
            reason = "it has no docstring"
        else:
            reason = " ".join(str(part) for part in error.args).strip().rstrip(".")
        raise ConfigError(
            f"{key} is {name!r}, whose function {function.__name__} cannot be shown to a model: {reason}; give each "
            "argument a type, and a line 'name: what it is' under 'Args:' in its docstring"
        ) from None
    return schema
