"""Whatever fails, and in whatever order: every prompt ends once, nothing is trained too old, every step comes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from play import tell

import actors.group_stream
from actors.group_stream import GroupStream
from actors.rollout_pool import ElasticRolloutPool
from maspo_dist.flow.admission import open_slots

SEEDS = 10_000
_CHUNK = 250


def _failures(seeds: range) -> list[str]:
    """What went wrong, one line a seed. Runs in a process of its own."""
    logging.disable(logging.CRITICAL)
    return [f"seed {seed}: {failure}" for seed in seeds if (failure := _failure(seed))]


def _failure(seed: int) -> str | None:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        try:
            tell(seed, Path(folder))
        except (Exception, BaseExceptionGroup) as error:
            return f"{type(error).__name__}: {error}"
    return None


def test_ten_thousand_stories_end_well() -> None:
    chunks = [range(start, start + _CHUNK) for start in range(0, SEEDS, _CHUNK)]
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        failures = [failure for part in pool.imap_unordered(_failures, chunks) for failure in part]
    assert not failures, f"{len(failures)} of {SEEDS}; tell one again with play.py SEED; {failures[:5]}"


def _first_failure(limit: int) -> str | None:
    return next((failure for seed in range(limit) if (failure := _failure(seed))), None)


@pytest.fixture
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def _one_batch_more(outstanding: int, per_step: int, age: int, over_sampling: float | None) -> int:
    return open_slots(outstanding, per_step, age + 1, over_sampling)


def _forgets_pending(self: GroupStream, state: object, finished: object) -> None:
    self._next_group = state.next_group  # type: ignore[attr-defined]


async def _joins_without_weights(self: ElasticRolloutPool, member: object) -> None:
    member.version = 0  # type: ignore[attr-defined]


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (lambda patch: patch.setattr(actors.group_stream, "open_slots", _one_batch_more), "old|sampled|in flight"),
        (lambda patch: patch.setattr(GroupStream, "_restore", _forgets_pending), "lost"),
        (lambda patch: patch.setattr(ElasticRolloutPool, "_join", _joins_without_weights), "serves without weights"),
    ],
    ids=["one batch too many is admitted", "a resumed run forgets open groups", "a new worker serves unproven"],
)
def test_a_planted_bug_is_found_within_a_hundred_stories(
    plant: Callable[[pytest.MonkeyPatch], None], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _first_failure(24) is None
    plant(monkeypatch)
    failure = _first_failure(100)
    assert failure is not None
    assert re.search(said, failure), failure
