"""`python:module:function`: a reward of the user's own.

    def score(response: str, reference: str, source: str) -> float | bool | Verdict

Sync or async. It runs in a verifier process, under the pool's deadline and memory limit. A number is the
reward, and the response counts as correct from 0.5; whatever it raises makes that sample an `error`.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import math
import time
from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np

from maspo_dist.errors import ConfigError
from maspo_dist.reward.sample import Sample
from maspo_dist.types import Verdict, VerdictStatus

_CORRECT_FROM = 0.5


class CustomScorer:
    """Calls the function that `name` names."""

    def __init__(self, name: str) -> None:
        """Raises ConfigError when module or function cannot be found, or the function takes other arguments."""
        self._name = name
        self._function = _load(name)
        self._loop = asyncio.new_event_loop() if inspect.iscoroutinefunction(self._function) else None

    def score(self, sample: Sample) -> Verdict:
        """Raises what the function raises, and TypeError or ValueError for a result that is no reward."""
        started = time.monotonic()
        result = self._function(sample.response, sample.reference, sample.source)
        if self._loop:
            result = self._loop.run_until_complete(result)
        if not isinstance(result, Real | Verdict | np.bool_):
            raise TypeError(f"{self._name} returned {type(result).__name__}, not a number, a bool or a Verdict")
        reward = result.reward if isinstance(result, Verdict) else float(result)
        if not math.isfinite(reward):
            raise ValueError(f"{self._name} returned {reward}")
        if isinstance(result, Verdict):
            return result
        status: VerdictStatus = "correct" if reward >= _CORRECT_FROM else "wrong"
        seconds = time.monotonic() - started
        return Verdict(reward=reward, status=status, extracted=None, seconds=seconds)


def _load(name: str) -> Callable[..., Any]:
    _, module_name, function_name = name.split(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"verifier {name!r}: {error}; it must be importable where the job runs") from None
    function: Callable[..., Any] | None = getattr(module, function_name, None)
    if function is None or not callable(function):
        raise ConfigError(f"verifier {name!r}: module {module_name} has no function {function_name}")
    try:
        inspect.signature(function).bind("response", "reference", "source")
    except TypeError:
        raise ConfigError(f"verifier {name!r} must take (response, reference, source)") from None
    return function
