"""Plays environments with made-up responses. `maspo-dist check` prints what they answer and what is wrong with them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maspo_dist.config.environment import EnvironmentConfig
from maspo_dist.environments.host import ForkedEnvironments
from maspo_dist.environments.protocol import Step, Task
from maspo_dist.environments.schemas import tool_schemas
from maspo_dist.errors import EnvironmentFailedError

#: Said in turn. No environment expects them, so an environment shows here whether it answers any text.
_RESPONSES = ("1", "Let me think.", "", "\\boxed{0}")
_START_S = 120.0
#: Arguments of a call, by their type in JSON.
_ARGUMENTS: Mapping[str, Any] = {"string": "1", "integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """One play of `task`: what was `said` in turn, and the answers.

    failure   why `reset` failed, if nothing was said, or else why the last response has no answer
    """

    task: Task
    said: tuple[str, ...]
    steps: tuple[Step, ...]
    failure: str | None = None


def play_twice(config: EnvironmentConfig, tasks: Sequence[Task]) -> list[tuple[Play, Play]]:
    """Two plays of each of `tasks`, with the same responses. Raises as `ForkedEnvironments.start` does.

    With tools, the first response calls the first tool.
    """
    return asyncio.run(_play_all(config, tasks, _responses(config)))


def play_notes(config: EnvironmentConfig, first: Play, second: Play) -> Iterator[str]:
    """One sentence if the plays of one task differ or fail."""
    task = first.task.prompt_id
    found, again = _outcomes(first), _outcomes(second)
    for number, (one, other) in enumerate(zip(found, again, strict=False)):
        if one != other:
            yield (
                f"environment {config.kind}: two plays of prompt {task} with the same responses differ in "
                f"{_place(number)}: {_difference(one, other)}; (task, responses) alone must decide, so draw chance "
                "from task.seed"
            )
            return
    if first.failure is not None:
        yield (
            f"environment {config.kind}: prompt {task} fails in {_place(len(found) - 1)} ({first.failure}): it "
            "must answer any response"
        )


def example_call(config: EnvironmentConfig) -> str:
    """A call of the first tool, as a model would write it. The values of required arguments are made up."""
    function = tool_schemas(config)[0]["function"]
    name, parameters = function["name"], function["parameters"]
    arguments = {key: _argument(parameters["properties"][key]) for key in parameters.get("required", ())}
    if config.call_format == "tags":
        return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"
    return f"{name}({', '.join(map(repr, arguments.values()))})"


def _argument(schema: Mapping[str, Any]) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    return _ARGUMENTS.get(kind[0] if isinstance(kind, list) else str(kind), "1")


def _responses(config: EnvironmentConfig) -> tuple[str, ...]:
    calls = (example_call(config),) if config.kind == "tools" else ()
    return (*calls, *_RESPONSES)[: config.max_turns]


async def _play_all(
    config: EnvironmentConfig, tasks: Sequence[Task], responses: tuple[str, ...]
) -> list[tuple[Play, Play]]:
    host = ForkedEnvironments(config, quiet_s=config.step_timeout_s, start_timeout_s=_START_S)
    try:
        await host.start()
        return [(await _play(host, task, responses), await _play(host, task, responses)) for task in tasks]
    finally:
        await host.aclose()


async def _play(host: ForkedEnvironments, task: Task, responses: tuple[str, ...]) -> Play:
    said: list[str] = []
    steps: list[Step] = []
    failure = None
    try:
        session = await host.open(task)
        try:
            for response in responses:
                said.append(response)
                steps.append(await session.step(response))
                if steps[-1].done:
                    break
        finally:
            await session.close()
    except EnvironmentFailedError as error:
        failure = error.reason
    return Play(task=task, said=tuple(said), steps=tuple(steps), failure=failure)


def _outcomes(play: Play) -> list[Step | str]:
    """What `reset`, an empty step, and each turn after it gave; the last may be why it failed."""
    reset = [Step()] if play.said else []
    return [*reset, *play.steps, *([] if play.failure is None else [play.failure])]


def _place(number: int) -> str:
    return f"turn {number}" if number else "reset"


def _difference(one: Step | str, other: Step | str) -> str:
    if isinstance(one, str) or isinstance(other, str):
        return f"one fails ({one if isinstance(one, str) else other})"
    fields = ("observation", "done", "reward", "metrics")
    name = next(name for name in fields if getattr(one, name) != getattr(other, name))
    return f"{name} {_short(getattr(one, name))}, then {_short(getattr(other, name))}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
