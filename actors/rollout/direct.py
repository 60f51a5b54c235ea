"""Publishes in which engines get the weights straight from the learner.

The learner keeps a copy for engines that come later, or that did not get all bytes: these load it through the object
store. Where no engine gets the weights straight, the learner puts them there at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, Protocol

from actors.interfaces import PublishReport, WeightKeeper, WeightUpdate
from actors.rollout.worker_slot import RunningWorker
from maspo_dist.config import TrainConfig
from maspo_dist.errors import WeightTransferError
from maspo_dist.runs.rows import Event

#: Publishes that fail in a row without the loss of an engine, after which `auto` stops trying.
_PATIENCE = 2

#: What a worker reports or raises; None when it was lost or left.
Outcome = PublishReport | BaseException | None


class DirectPublisher(Protocol):
    @property
    def keeper(self) -> WeightKeeper: ...

    async def publish(
        self, workers: Sequence[RunningWorker], update: WeightUpdate
    ) -> tuple[list[Outcome], list[RunningWorker]]:
        """The outcomes, and the workers that still need the weights, which the learner then has kept or stored.

        Raises LearnerLostError when a learner rank is lost; a worker whose engine has only a part of the bytes is then
        not `is_whole`.
        """


class Failures:
    """Counts failed publishes in a row, and writes events about them."""

    def __init__(
        self, config: TrainConfig, kind: Literal["broadcast_failed", "ipc_failed"], on_event: Callable[[Event], None]
    ) -> None:
        self._is_auto = config.sync.transport == "auto"
        self._kind: Literal["broadcast_failed", "ipc_failed"] = kind
        self._on_event = on_event
        self._in_a_row = 0

    @property
    def is_given_up(self) -> bool:
        return self._is_auto and self._in_a_row >= _PATIENCE

    def note(self, failure: str | None, version: int, *, are_lost: bool) -> None:
        """`failure` is why engines lack the weights of `version`, None where they have them."""
        if failure is None:
            self._in_a_row = 0
            return
        self._in_a_row = 0 if are_lost else self._in_a_row + 1
        message = f"policy version {version} comes through the object store: {failure}"
        self._on_event(Event(kind=self._kind, message=message))
        if self.is_given_up:
            reason = f"{_PATIENCE} publishes in a row failed, and no engine was lost"
            self._on_event(Event(kind="transport_chosen", message=f"object_store from now on: {reason}"))


def outcome_of(worker: RunningWorker, result: PublishReport | BaseException | None, sent_s: float) -> Outcome:
    """The outcome of a call whose bytes took `sent_s` on their way."""
    if worker.ended.done():
        return None
    return replace(result, transfer_s=result.transfer_s + sent_s) if isinstance(result, PublishReport) else result


def without_failed(
    workers: Sequence[RunningWorker], outcomes: Sequence[Outcome]
) -> tuple[list[Outcome], list[RunningWorker]]:
    """The outcomes of the workers that got all bytes or were lost, and the workers that still need the weights."""
    failed = [w for w, outcome in zip(workers, outcomes, strict=True) if isinstance(outcome, WeightTransferError)]
    return [outcome for outcome in outcomes if not isinstance(outcome, WeightTransferError)], failed
