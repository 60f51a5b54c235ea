"""`environment.kind: tools`: runs the calls in a turn, and answers with their results.

A wrong call is answered by one line of text that begins with `error:`, and counted. A turn without a call is the final
answer. What a reasoning block holds is no call.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import PydanticUserError, ValidationError, validate_call

from maspo_dist.config.environment import EnvironmentConfig
from maspo_dist.config.extension import load_extension
from maspo_dist.config.reasoning import REASONING_TAGS, outside_reasoning
from maspo_dist.environments.calls import BadCall, Call, read_calls
from maspo_dist.environments.memory import is_out_of_memory
from maspo_dist.environments.protocol import Step, Task
from maspo_dist.errors import ConfigError
from maspo_dist.reward.code.sandbox import Isolation, Limits, best_isolation, run_program
from maspo_dist.reward.sample import one_line

#: Share of `environment.step_timeout_s` for all programs of a turn together. When it has passed, the model reads that
#: the time was up.
_PROGRAM_SHARE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedTool:
    """What an entry of `environment.tools` names: a function, or a class with `methods`, the tools of an instance.

    checked    the function with its arguments checked; None for a class
    """

    key: str
    found: Callable[..., Any]
    methods: tuple[str, ...] = ()
    checked: Callable[..., Any] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The tools, as the model calls them."""
        return self.methods or (self.found.__name__,)


def load_tools(config: EnvironmentConfig) -> tuple[LoadedTool, ...]:
    """Imports the tools. Raises ConfigError naming the key, the tool and what is wrong with it."""
    tools = tuple(_load(name, f"environment.tools.{index}", config) for index, name in enumerate(config.tools))
    owners: dict[str, str] = {}
    for tool in tools:
        for name in tool.names:
            if name in owners:
                raise ConfigError(f"{owners[name]} and {tool.key} both name a tool {name!r}: rename one")
            owners[name] = tool.key
    # Python prepares its parser on first use, which the process of each trajectory would do again.
    read_calls("".join(f"{name}()\n" for name in owners), config.call_format, owners)
    return tools


def _load(name: str, key: str, config: EnvironmentConfig) -> LoadedTool:
    if name == "python":
        # Tried once here, not while a model waits.
        return LoadedTool(key=key, found=partial(PythonTool, config.memory_mb, best_isolation()), methods=("python",))
    found = load_extension(name, key)
    if inspect.isclass(found):
        methods = tuple(method for method, _ in inspect.getmembers(found, inspect.isroutine) if method[0] != "_")
        if not methods:
            raise ConfigError(f"{key} is {name!r}, a class without public methods: each is a tool")
        try:
            inspect.signature(found).bind()
        except TypeError:
            raise ConfigError(f"{key} is {name!r}, whose constructor must need no arguments") from None
        return LoadedTool(key=key, found=found, methods=methods)
    if not inspect.isroutine(found):
        raise ConfigError(f"{key} is {name!r}, which is neither a function nor a class: name one")
    try:
        # Once: in the process of each trajectory it would take longer than most calls.
        return LoadedTool(key=key, found=found, checked=validate_call(found))
    except PydanticUserError as error:
        reason = error.message.partition(". ")[0]
        raise ConfigError(
            f"{key} is {name!r}, whose arguments cannot be checked ({reason}): give each a type that JSON can hold"
        ) from None


class ToolEnvironment:
    """An `Environment` in which a turn calls tools. `runner` runs tools that are coroutines, and is the caller's."""

    def __init__(
        self,
        config: EnvironmentConfig,
        tools: Sequence[LoadedTool],
        runner: asyncio.Runner,
        reasoning_tags: Mapping[str, str] = REASONING_TAGS,
    ) -> None:
        self._config = config
        self._reasoning_tags = reasoning_tags
        self._loaded = tools
        self._runner = runner
        self._tools: dict[str, Callable[..., Any]] = {}
        self._programs: PythonTool | None = None

    def reset(self, task: Task) -> None:
        for tool in self._loaded:
            if tool.checked is not None:
                self._tools[tool.found.__name__] = tool.checked
                continue
            owner = tool.found()
            if isinstance(owner, PythonTool):
                self._programs = owner
            for name in tool.methods:
                self._tools[name] = validate_call(getattr(owner, name))

    def step(self, response: str) -> Step:
        calls = read_calls(outside_reasoning(response, self._reasoning_tags), self._config.call_format, self._tools)
        if not calls:
            # Zeros, so that the curves continue at 0 when the model stops calling tools.
            return Step(done=True, metrics={"calls": 0, "failed_calls": 0})
        if self._programs:
            self._programs.begin_turn(_PROGRAM_SHARE * self._config.step_timeout_s)
        results, failed = [], 0
        for call in calls:
            result, is_answered = self._answer(call)
            results.append(result)
            failed += not is_answered
        return Step(observation="\n".join(results), metrics={"calls": len(calls), "failed_calls": failed})

    def _answer(self, call: Call | BadCall) -> tuple[str, bool]:
        """What the model reads, and whether the call was right."""
        if isinstance(call, BadCall):
            return f"error: {call.reason}", False
        try:
            result = self._tools[call.name](*call.positional, **call.named)
            if inspect.isawaitable(result):
                result = self._runner.run(_result_of(result))
            return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=repr), True
        except ValidationError as error:
            return f"error: {_wrong_arguments(error)}", False
        except Exception as error:  # A tool is the user's and its arguments are the model's: it may raise anything.
            if is_out_of_memory(error):
                raise
            return f"error: {one_line(error)}", False


async def _result_of(returned: Awaitable[Any]) -> Any:
    return await returned


def _wrong_arguments(error: ValidationError) -> str:
    """The first argument that is wrong, and why."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or "arguments"
    return f"{error.title}: {place}: {first['msg']}".replace("\n", " ")


class PythonTool:
    """The tool `python`: programs in the sandbox of the `code` verifier."""

    def __init__(self, memory_mb: int, isolation: Isolation) -> None:
        self._memory_mb = memory_mb
        self._isolation = isolation
        self._ends_s = 0.0

    def begin_turn(self, seconds: float) -> None:
        """All programs of this turn together have `seconds`."""
        self._ends_s = time.monotonic() + seconds

    def python(self, code: str) -> str:
        """
        Runs a Python program and returns what it prints. Each program starts afresh, with the standard library and
        numpy, and without network.

        Args:
            code: The whole program, which prints its results.
        """
        wall_s = max(self._ends_s - time.monotonic(), 0.0)
        limits = Limits(wall_s=wall_s, cpu_s=max(1, int(wall_s)), memory_mb=self._memory_mb, isolation=self._isolation)
        outcome = run_program(code, b"", limits)
        printed = outcome.stdout.decode("utf-8", "replace")
        return f"{printed}{outcome.failure or ''}" or "the program printed nothing"
