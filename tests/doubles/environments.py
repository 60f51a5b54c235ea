"""A host of environments that a test scripts: no process is started."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from maspo_dist.environments.protocol import Step, Task
from maspo_dist.errors import EnvironmentFailedError

#: What a session answers to a response in a turn, counted from 0. It may raise EnvironmentFailedError.
Answer = Callable[[Task, int, str], Step | EnvironmentFailedError]


@dataclass(eq=False)
class ScriptedSession:
    """Notes what was said; `answer` decides what is observed."""

    task: Task
    answer: Answer
    wait_s: float
    said: list[str] = field(default_factory=list)
    is_closed: bool = False

    async def step(self, response: str) -> Step:
        assert not self.is_closed, "a step after the end of the session"
        await asyncio.sleep(self.wait_s)
        self.said.append(response)
        answer = self.answer(self.task, len(self.said) - 1, response)
        if isinstance(answer, EnvironmentFailedError):
            self.is_closed = True
            raise answer
        return answer

    async def close(self) -> None:
        self.is_closed = True


class ScriptedHost:
    """Implements `EnvironmentHost`. `sessions` are all that were opened, in order; each call takes `wait_s` seconds.

    `reset` says what `open` raises for a task, if anything.
    """

    def __init__(
        self,
        answer: Answer,
        wait_s: float = 0.0,
        reset: Callable[[Task], EnvironmentFailedError | None] = lambda task: None,
    ) -> None:
        self._answer = answer
        self._wait_s = wait_s
        self._reset = reset
        self.sessions: list[ScriptedSession] = []
        self.is_closed = False

    async def open(self, task: Task) -> ScriptedSession:
        await asyncio.sleep(self._wait_s)
        if failure := self._reset(task):
            raise failure
        self.sessions.append(ScriptedSession(task, self._answer, self._wait_s))
        return self.sessions[-1]

    async def aclose(self) -> None:
        self.is_closed = True
