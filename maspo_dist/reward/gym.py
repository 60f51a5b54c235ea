"""`reasoning_gym`: procedural tasks with their own scorers, from the package of that name (optional).

Rows come from `generate_rows`; the reference carries the task and its entry, so that the scorer needs nothing
else. A scorer that raises makes the sample an `error`; scores below 1 are kept as rewards.
"""

from __future__ import annotations

import importlib
import json
import math
import time
from collections.abc import Iterator
from typing import Any

from maspo_dist.errors import ConfigError
from maspo_dist.reward.matching import plain_answer
from maspo_dist.reward.sample import Sample
from maspo_dist.types import Verdict

SOURCE = "reasoning_gym"


def generate_rows(task: str, size: int, seed: int) -> Iterator[dict[str, str]]:
    """`size` problems of `task` as rows with problem, answer (the reference) and source.

    Raises ConfigError when the package is missing or has no such task.
    """
    package = _package()
    try:
        dataset = package.create_dataset(task, size=size, seed=seed)
    except ValueError as error:
        raise ConfigError(f"reasoning_gym has no task {task!r}: {error}") from None
    for entry in dataset:
        reference = json.dumps({"task": task, "entry": entry}, default=str)
        yield {"problem": entry["question"], "answer": reference, "source": SOURCE}


class ReasoningGymScorer:
    """The `reasoning_gym` verifier: the task's own scorer on the box, `<answer>`, or whole visible text."""

    def __init__(self) -> None:
        self._package = _package()

    def score(self, sample: Sample) -> Verdict:
        """Raises what the task's scorer raises, and ValueError for a reference or score it cannot use."""
        started = time.monotonic()
        reference = json.loads(sample.reference)
        answer = plain_answer(sample.response)
        if answer is None:
            seconds = time.monotonic() - started
            return Verdict(reward=0.0, status="unparsed", extracted=None, seconds=seconds, reason="no answer found")
        score = self._package.get_score_answer_fn(reference["task"])
        reward = float(score(answer=answer, entry=reference["entry"]))
        if not math.isfinite(reward):
            raise ValueError(f"task {reference['task']} scored {reward}")
        return Verdict(
            reward=reward,
            status="correct" if reward >= 1.0 else "wrong",
            extracted=answer[:500],
            seconds=time.monotonic() - started,
        )


def _package() -> Any:
    try:
        return importlib.import_module("reasoning_gym")
    except ModuleNotFoundError:
        raise ConfigError("verifier reasoning_gym needs the package: pip install 'maspo-dist[reasoning-gym]'") from None
