"""The process of one trajectory: resets its environment, answers each turn, and ends with its connection.

It knows no deadlines: the host has it killed.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import resource
import socket
from collections.abc import Callable
from typing import Any

# NumPy loads this part on first use, which each fork would do again.
from numpy import random as numpy_random

from maspo_dist.config.environment import EnvironmentConfig
from maspo_dist.environments.memory import is_out_of_memory
from maspo_dist.environments.messages import Heard, Said, decode, encode, most_characters
from maspo_dist.environments.protocol import Step, Task
from maspo_dist.errors import EnvironmentLostError
from maspo_dist.reward.pool.wire import Connection
from maspo_dist.reward.sample import one_line


def serve(stream: socket.socket, make: Callable[[], Any], config: EnvironmentConfig, memory_bytes: int) -> None:
    """Plays one trajectory over `stream` with the environment that `make` returns, until either side ends it.

    `memory_bytes` bounds the address space.
    """
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = Connection(stream)
    try:
        # Makes its event loop for the first coroutine; the end of the process closes it.
        _play(connection, make, most_characters(config.max_observation_tokens), asyncio.Runner())
    except EOFError:
        return
    except EnvironmentLostError as error:
        connection.send(encode(Heard(failure=error.reason, is_lost=True)))
        return
    # A process boundary: whatever the user's environment raises ends its own trajectory, SystemExit too.
    except BaseException as error:
        failure = one_line(error)
        if is_out_of_memory(error):
            limit = f"environment.memory_mb is {config.memory_mb}, which bounds its address space"
            failure = f"out of memory ({limit}, the stacks of threads included)"
    connection.send(encode(Heard(failure=failure)))


def _play(connection: Connection, make: Callable[[], Any], most: int, runner: asyncio.Runner) -> None:
    def result_of(returned: Any) -> Any:
        return runner.run(returned) if inspect.iscoroutine(returned) else returned

    connection.send(encode(Heard()))
    task = decode(Task, connection.receive_line())
    # Forks would share the state of the process that they were forked from.
    random.seed(task.seed)
    numpy_random.seed(task.seed % 2**32)
    environment = make()
    result_of(environment.reset(task))
    connection.send(encode(Heard()))
    while True:
        said = decode(Said, connection.receive_line())
        step = result_of(environment.step(said.response))
        if not isinstance(step, Step):
            raise TypeError(f"step returned {type(step).__name__}, not a Step")
        connection.send(encode(Heard(step=_plain(step, most))))


def _plain(step: Step, most: int) -> Step:
    """A copy of `step` that can be sent as JSON: at most `most` characters of valid Unicode, and numbers as Python
    floats.
    """
    text = _without_middle(step.observation, most)
    return Step(
        observation=text.encode("utf-8", "replace").decode("utf-8"),
        done=bool(step.done),
        reward=None if step.reward is None else float(step.reward),
        metrics={str(name): float(number) for name, number in step.metrics.items()},
    )


def _without_middle(text: str, most: int) -> str:
    """`text`, or its start and end, `most` characters together, with a mark that says how much is left out."""
    if len(text) <= most:
        return text
    start, end = text[: most // 2], text[len(text) - (most - most // 2) :]
    return f"{start}\n[… {len(text) - most} characters left out …]\n{end}"
