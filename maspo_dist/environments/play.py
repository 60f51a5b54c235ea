"""Plays an environment twice with the same responses: what `maspo-dist check` says of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from maspo_dist.config.environment import EnvironmentConfig
from maspo_dist.environments.host import ForkedEnvironments
from maspo_dist.environments.protocol import Step, Task
from maspo_dist.errors import EnvironmentFailedError

#: Said in turn. No environment expects them, so an environment shows here whether it answers any text.
_RESPONSES = ("1", "Let me think.", "", "\\boxed{0}")
_START_S = 120.0


def play_notes(config: EnvironmentConfig, task: Task) -> Iterator[str]:
    """One sentence if `task` fails, or if two plays of it differ. Raises as `ForkedEnvironments.start` does."""
    first, second = asyncio.run(_play_twice(config, task))
    for number, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            yield (
                f"environment {config.kind}: two plays of prompt {task.prompt_id} with the same responses differ in "
                f"{_place(number)}: {_difference(one, other)}; (task, responses) alone must decide, so draw chance "
                "from task.seed"
            )
            return
    if isinstance(first[-1], str):
        yield (
            f"environment {config.kind}: prompt {task.prompt_id} fails in {_place(len(first) - 1)} ({first[-1]}): it "
            "must answer any response"
        )


async def _play_twice(config: EnvironmentConfig, task: Task) -> tuple[list[Step | str], list[Step | str]]:
    host = ForkedEnvironments(config, quiet_s=config.step_timeout_s, start_timeout_s=_START_S)
    try:
        await host.start()
        return await _play(host, config, task), await _play(host, config, task)
    finally:
        await host.aclose()


async def _play(host: ForkedEnvironments, config: EnvironmentConfig, task: Task) -> list[Step | str]:
    """What `reset`, an empty step, and each turn after it gave; the last may be why it failed."""
    found: list[Step | str] = []
    try:
        session = await host.open(task)
        try:
            found.append(Step())
            for response in _RESPONSES[: config.max_turns]:
                step = await session.step(response)
                found.append(step)
                if step.done:
                    break
        finally:
            await session.close()
    except EnvironmentFailedError as error:
        found.append(error.reason)
    return found


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
