"""From `environment.kind` to what makes the environment of a trajectory."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from maspo_dist.config.environment import EnvironmentConfig, is_server
from maspo_dist.config.extension import load_class
from maspo_dist.config.reasoning import REASONING_TAGS
from maspo_dist.environments.protocol import Environment
from maspo_dist.environments.tools import ToolEnvironment, load_tools
from maspo_dist.errors import ConfigError


def environment_maker(
    config: EnvironmentConfig, reasoning_tags: Mapping[str, str] = REASONING_TAGS
) -> Callable[[], Any]:
    """Imports what `config` names. Each call of the result makes the `Environment` of one trajectory.

    Tools read no calls between `reasoning_tags`.

    Raises ConfigError naming the key, its value and what is missing.
    """
    if config.kind == "tools":
        tools = load_tools(config)
        # A runner makes its event loop for the first coroutine; the end of the process closes it.
        return lambda: ToolEnvironment(config, tools, asyncio.Runner(), reasoning_tags)
    if is_server(config.kind):
        # Its module imports websockets, which other environments do not need.
        openenv = importlib.import_module("maspo_dist.environments.openenv")
        return lambda: openenv.OpenEnv(config)
    found = load_class(config.kind, "environment.kind", Environment)
    try:
        inspect.signature(found).bind()
    except TypeError:
        raise ConfigError(f"environment.kind is {config.kind!r}, whose constructor must need no arguments") from None
    return found
