"""Responses on their way to the verifier: those that end together share a call, and each gets its own verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from actors.verifier.client import VerifierClient
from maspo_dist.errors import ActorDiedError, VerifierError
from maspo_dist.reward import Sample
from maspo_dist.types import Verdict


class Verifier:
    """In place of an actor's handle. Finds the responses right that are their reference; dies of the first calls."""

    def __init__(self, *, deaths: int = 0) -> None:
        self.calls: list[list[str]] = []
        self.came = asyncio.Semaphore(0)
        self.answers = asyncio.Event()
        self.answers.set()
        self._deaths = deaths

    @property
    def score(self) -> Any:
        return self

    async def remote(self, samples: Sequence[Sample]) -> tuple[Verdict, ...]:
        self.calls.append([sample.response for sample in samples])
        self.came.release()
        if len(self.calls) <= self._deaths:
            raise ActorDiedError("the verifier is dead")
        await self.answers.wait()
        return tuple(_verdict(sample) for sample in samples)


def _verdict(sample: Sample) -> Verdict:
    right = sample.response == sample.reference
    return Verdict(reward=float(right), status="correct" if right else "wrong", extracted=sample.response, seconds=0)


def make_client(verifier: Verifier) -> VerifierClient:
    return VerifierClient(verifier, 60)  # type: ignore[arg-type]


async def test_responses_that_end_together_share_a_call_and_each_gets_its_verdict() -> None:
    verifier = Verifier()
    client = make_client(verifier)
    references = {"1": "2", "2": "2", "3": "3"}
    verdicts = await asyncio.gather(*(client.score(*sample, "") for sample in references.items()))
    assert [verdict.extracted for verdict in verdicts] == ["1", "2", "3"]
    assert [verdict.reward for verdict in verdicts] == [0, 1, 1]
    assert verifier.calls == [["1", "2", "3"]]


async def test_a_call_takes_a_bounded_number_of_responses() -> None:
    verifier = Verifier()
    client = make_client(verifier)
    responses = [str(number) for number in range(70)]
    verdicts = await asyncio.gather(*(client.score(response, "", "") for response in responses))
    assert [verdict.extracted for verdict in verdicts] == responses
    assert [len(call) for call in verifier.calls] == [32, 32, 6]


async def test_a_response_that_ends_later_does_not_wait_for_an_earlier_call() -> None:
    verifier = Verifier()
    verifier.answers.clear()
    client = make_client(verifier)
    waiting: list[asyncio.Task[Verdict]] = []
    for response in ("1", "2"):
        waiting.append(asyncio.create_task(client.score(response, "1", "")))
        await verifier.came.acquire()
    assert verifier.calls == [["1"], ["2"]]
    verifier.answers.set()
    assert [(await task).extracted for task in waiting] == ["1", "2"]


async def test_a_cancelled_response_leaves_the_others_their_verdicts() -> None:
    verifier = Verifier()
    verifier.answers.clear()
    client = make_client(verifier)
    gone, stays = (asyncio.create_task(client.score(response, "1", "")) for response in ("1", "2"))
    await verifier.came.acquire()
    gone.cancel()
    verifier.answers.set()
    assert (await stays).extracted == "2"
    assert gone.cancelled()


async def test_a_call_is_repeated_when_the_verifier_dies_and_ends_with_the_cause_when_it_keeps_dying() -> None:
    verifier = Verifier(deaths=2)
    assert (await make_client(verifier).score("1", "1", "")).reward == 1
    assert len(verifier.calls) == 3
    with pytest.raises(VerifierError, match="3 tries: the verifier is dead"):
        await make_client(Verifier(deaths=9)).score("1", "1", "")
