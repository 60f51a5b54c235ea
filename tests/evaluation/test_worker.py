"""A problem of an evaluation may take any time while its worker samples tokens."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from doubles.loop import make_prompt

from actors.evaluation.worker import EvaluationWorker
from maspo_dist.config import ClusterConfig
from maspo_dist.errors import DeadlineError
from maspo_dist.types import RolloutRequest, Sampling


@dataclass
class Call:
    """A method of an actor's handle."""

    remote: Callable[..., Awaitable[Any]]


class Handle:
    """An actor that answers after `seconds`, and samples a token between two pings unless it hangs."""

    def __init__(self, seconds: float, *, hangs: bool = False) -> None:
        self.sample, self.ping = Call(self._sample), Call(self._ping)
        self._seconds, self._hangs, self._tokens = seconds, hangs, 0

    async def _sample(self, request: RolloutRequest) -> tuple[()]:
        await asyncio.sleep(self._seconds)
        return ()

    async def _ping(self) -> int:
        self._tokens += not self._hangs
        return self._tokens


async def sampled(handle: Handle) -> object:
    config = ClusterConfig(heartbeat_s=0.05, heartbeat_timeout_s=1, generate_timeout_s=0.3)
    worker = EvaluationWorker(0, handle, config)  # type: ignore[arg-type]
    following = asyncio.ensure_future(worker.follow())
    prompt = make_prompt(7)
    sampling = Sampling(temperature=1.0, max_response_tokens=8)
    try:
        return await worker.sample(RolloutRequest(group_id=0, prompt=prompt, num_samples=1, sampling=sampling, seed=0))
    finally:
        following.cancel()


async def test_a_problem_that_takes_longer_than_the_timeout_ends_while_tokens_come() -> None:
    assert await sampled(Handle(seconds=1.0)) == ()


async def test_an_engine_that_samples_no_token_ends_the_evaluation() -> None:
    with pytest.raises(DeadlineError, match=r"^evaluation worker 0: problem "):
        await sampled(Handle(seconds=5.0, hangs=True))
