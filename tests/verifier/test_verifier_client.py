"""Responses on their way to the verifier: those that end together share a call, and each gets its own verdict."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from doubles.virtual_clock import run_virtually

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

    @property
    def idle_s(self) -> Any:
        raise AssertionError("no call of these tests is slow")

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


class QueueingVerifier:
    """In place of an actor's handle: one queue, a verdict each second, until `stuck_after` verdicts.

    Withdraws the samples of a call that is cancelled, and then gives verdicts again.
    """

    def __init__(self, *, stuck_after: float = math.inf) -> None:
        self.scored: list[str] = []
        self.given_up_s: list[float] = []
        self._stuck_after = stuck_after
        self._last_verdict_s = 0.0
        self._queue = asyncio.Lock()

    @property
    def score(self) -> Any:
        return Remote(lambda samples: asyncio.ensure_future(self._score(samples)))

    @property
    def idle_s(self) -> Any:
        return Remote(self._idle_s)

    async def _score(self, samples: Sequence[Sample]) -> tuple[Verdict, ...]:
        async with asyncio.TaskGroup() as tasks:
            verdicts = [tasks.create_task(self._verify(sample)) for sample in samples]
        return tuple(verdict.result() for verdict in verdicts)

    async def _verify(self, sample: Sample) -> Verdict:
        async with self._queue:
            if len(self.scored) == self._stuck_after:
                await asyncio.Event().wait()
            await asyncio.sleep(1)
            self.scored.append(sample.response)
            self._last_verdict_s = asyncio.get_running_loop().time()
        return _verdict(sample)

    async def _idle_s(self) -> float:
        return asyncio.get_running_loop().time() - self._last_verdict_s

    def cancel(self, call: asyncio.Future[Any]) -> None:
        self.given_up_s.append(asyncio.get_running_loop().time())
        self._stuck_after = math.inf
        call.cancel()


class Remote:
    def __init__(self, remote: Callable[..., Any]) -> None:
        self.remote = remote


async def verdicts_on(verifier: QueueingVerifier, responses: Sequence[str]) -> list[str]:
    client = VerifierClient(verifier, 60)  # type: ignore[arg-type]
    verdicts = await asyncio.gather(*(client.score(response, "", "") for response in responses))
    return [str(verdict.extracted) for verdict in verdicts]


RESPONSES = [str(number) for number in range(180)]


def test_a_queue_longer_than_the_deadline_gives_every_verdict_and_scores_no_response_twice() -> None:
    async def main() -> QueueingVerifier:
        verifier = QueueingVerifier()
        assert await verdicts_on(verifier, RESPONSES) == RESPONSES
        return verifier

    assert run_virtually(main(), 3600).scored == RESPONSES


def test_a_verifier_that_stops_is_noticed_a_deadline_after_its_last_verdict_and_gets_no_copies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> QueueingVerifier:
        verifier = QueueingVerifier(stuck_after=100)
        monkeypatch.setattr("ray.cancel", verifier.cancel)
        assert await verdicts_on(verifier, RESPONSES) == RESPONSES
        return verifier

    verifier = run_virtually(main(), 3600)
    assert set(verifier.given_up_s) == {160.0}
    # The call that was under way when it stopped had some of its verdicts; the later calls had none.
    assert sorted(verifier.scored, key=int) == sorted([*RESPONSES, *RESPONSES[96:100]], key=int)
