"""`reasoning_gym`: procedural tasks with their own scorers, from the optional package of that name.

`generate_rows` makes the rows. The reference carries the task and its entry, so that the scorer needs nothing else.
Scores below 1 are kept as rewards. Two habits of the package's scorers (0.1.25):
    some raise on an answer that they cannot read    the answer is wrong; it is an error only when the scorer
                                                     cannot read the entry's own answer either
    three accept too much                            only the entry's own answer, or its equal, earns anything
"""

from __future__ import annotations

import importlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, Protocol

from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.errors import ConfigError
from maspo_dist.reward.math.verifier import verify_math
from maspo_dist.reward.sample import Sample, make_verdict, one_line
from maspo_dist.reward.verifiers.matching import plain_answer
from maspo_dist.types import Verdict, VerdictStatus

SOURCE = "reasoning_gym"
#: game_of_life_halting accepts any text, coin_flip the first digits, complex_arithmetic "nan".
_ACCEPT_TOO_MUCH = frozenset({"game_of_life_halting", "coin_flip", "complex_arithmetic"})

ScoreAnswer = Callable[..., float]


class Package(Protocol):
    """The part of the package `reasoning_gym` that is used."""

    def create_dataset(self, name: str, /, *, size: int, seed: int) -> Iterable[dict[str, Any]]: ...

    def get_score_answer_fn(self, name: str, /) -> ScoreAnswer: ...


def generate_rows(task: str, size: int, seed: int, package: Package | None = None) -> Iterator[dict[str, str]]:
    """`size` problems of `task` as rows with problem, answer (the reference) and source.

    Raises ConfigError when the package is missing or has no such task.
    """
    package = package or load_package()
    try:
        dataset = package.create_dataset(task, size=size, seed=seed)
    except ValueError as error:
        raise ConfigError(f"reasoning_gym has no task {task!r}: {error}") from None
    for entry in dataset:
        reference = json.dumps({"task": task, "entry": _encode(entry)})
        yield {"problem": entry["question"], "answer": reference, "source": SOURCE}


class ReasoningGymVerifier:
    """The `reasoning_gym` verifier: the task's own scorer on the box, `<answer>`, or whole visible text."""

    def __init__(self, config: VerifierConfig | None = None, *, package: Package | None = None) -> None:
        """Raises ConfigError when the package is missing."""
        self._tags = (config or VerifierConfig()).reasoning_tags
        # Making a scorer can take a second: it loads the task's data.
        self._scorer_of = lru_cache(maxsize=None)((package or load_package()).get_score_answer_fn)

    def score(self, sample: Sample) -> Verdict:
        """Raises ValueError for a reference or a score that cannot be used."""
        started = time.monotonic()
        reference = json.loads(sample.reference)
        task, entry = reference["task"], _decode(reference["entry"])
        answer = plain_answer(sample.response, self._tags)
        if answer is None:
            return make_verdict("unparsed", started, reason="no answer found")
        reward, reason = self._reward(task, entry, answer)
        status: VerdictStatus = "correct" if reward >= 1.0 else "wrong"
        return make_verdict(status, started, reward=reward, extracted=answer, reason=reason)

    def _reward(self, task: str, entry: dict[str, Any], answer: str) -> tuple[float, str]:
        own = entry.get("answer")
        if task in _ACCEPT_TOO_MUCH:
            return float(_same(answer, str(own))), ""
        score = self._scorer_of(task)
        try:
            reward = float(score(answer=answer, entry=entry))
        except MemoryError:
            raise
        except Exception as error:  # whatever a task's scorer raises on text that it did not foresee
            if own is None or float(score(answer=str(own), entry=entry)) < 1.0:
                raise
            return 0.0, f"the task's scorer cannot read it: {one_line(error)}"
        if not math.isfinite(reward):
            raise ValueError(f"task {task} scored {reward}")
        return reward, ""


def load_package() -> Package:
    """Raises ConfigError that says how to install it."""
    try:
        package: Package = importlib.import_module("reasoning_gym")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"verifier reasoning_gym needs its package ({error}): pip install 'maspo-dist[reasoning-gym]'"
        ) from None
    return package


def _same(answer: str, own: str) -> bool:
    return answer.strip().casefold() == own.strip().casefold() or (
        verify_math(f"\\boxed{{{answer}}}", own).status == "correct"
    )


def _encode(value: Any) -> Any:
    """An entry as JSON that keeps tuples and number keys: scorers compare tuples and look up numbers."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_encode(item) for item in value]
    if isinstance(value, tuple | set | frozenset):
        return {type(value).__name__: [_encode(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_encode(key), _encode(item)] for key, item in value.items()]}
    return str(value)


def _decode(data: Any) -> Any:
    if isinstance(data, list):
        return [_decode(item) for item in data]
    if not isinstance(data, dict):
        return data
    ((kind, items),) = data.items()
    if kind == "dict":
        return {_decode(key): _decode(item) for key, item in items}
    return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](map(_decode, items))
