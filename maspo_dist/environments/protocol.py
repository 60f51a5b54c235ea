"""What a trajectory plays against, and who runs it: the contract of an environment, and of its host.

    host.open(task) ── reset(task) ──► session.step(response) ── step(response) ──► Step ──► …  session.close()

An environment runs in a process of its own. Its user writes a class with `reset` and `step`; the rollout worker sees
sessions of an `EnvironmentHost`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from maspo_dist.types import LARGEST_REWARD


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a trajectory starts from.

    reference   the answer of the data row
    seed        the same for all samples of a group
    """

    prompt_id: str
    reference: str
    source: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What an environment answers to a response.

    observation   what the model reads next
    done          the trajectory ends here, and nobody reads the observation
    reward        of this response; the reward of the trajectory is the sum. None throughout: the verifier scores the
                  last response
    metrics       numbers by name, which are summed over the trajectory and logged as conversation/<name>; numbers whose
                  names differ only in characters that a metric's name cannot hold are added up
    """

    observation: str = ""
    done: bool = False
    reward: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.observation, str):
            raise TypeError(f"the observation is {type(self.observation).__name__}, not text")
        if self.reward is not None and not -LARGEST_REWARD <= self.reward <= LARGEST_REWARD:
            raise ValueError(f"reward is {self.reward}, not a number within ±{LARGEST_REWARD:g}")
        for name, number in self.metrics.items():
            if not math.isfinite(number):
                raise ValueError(f"{name} is {number}, not a finite number")


class Environment(Protocol):
    """Plays one trajectory; `environment.kind` names a class of the user's own, made without arguments.

    The class is imported once per rollout worker, and each trajectory is a process forked from there. Both methods may
    be coroutines. A trajectory that is sampled again starts with a new instance, so `(task, responses)` alone must
    decide what is observed: draw chance from `task.seed`, with which `random` and `numpy.random` are seeded.

    A call past `environment.step_timeout_s`, or a process that grows by more than `environment.memory_mb`, is killed
    with all processes that it started. What a method raises ends the trajectory as an `error`, which is not trained on.
    After EnvironmentLostError the trajectory starts again, at most twice.
    """

    def reset(self, task: Task) -> None:
        """Called once, before the first response. What the model must know stands in the prompt of the data row."""

    def step(self, response: str) -> Step:
        """Answers one turn of the model: its text without the end of the turn, special tokens included."""
        ...


class Session(Protocol):
    """The environment of one trajectory."""

    async def step(self, response: str) -> Step:
        """Raises EnvironmentFailedError when there is no answer; the session has then ended.

        The error is an EnvironmentLostError when what environments share was lost, such as the process that forks
        them. Another session can then be opened for the same task.
        """
        ...

    async def close(self) -> None:
        """Ends the environment's process and all that it started. Safe to call twice, and after a failure."""


class EnvironmentHost(Protocol):
    """Starts and ends the processes of environments."""

    async def open(self, task: Task) -> Session:
        """A session whose environment has been reset; waits while `environment.processes` are open.

        Raises EnvironmentFailedError when `reset` fails, as `step` does. Raises DeadlineError when no session was
        opened, answered or closed for too long, and ActorDiedError when processes can no longer be started.
        """
        ...

    async def aclose(self) -> None:
        """Ends all processes; open sessions fail."""
