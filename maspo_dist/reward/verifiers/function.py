"""`python:module:function`: a reward of the user's own, as a function.

    def score(response: str, reference: str, source: str) -> float | bool | Verdict

Sync or async; called by keyword. A number is the reward, and the response counts as correct from 0.5.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np

from maspo_dist.reward.sample import Sample, make_verdict, status_of
from maspo_dist.types import Verdict


class FunctionVerifier:
    """Calls `function`, which the configuration names `name`."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name = name
        self._function = function
        self._loop = asyncio.new_event_loop() if inspect.iscoroutinefunction(function) else None

    def score(self, sample: Sample) -> Verdict:
        """Raises what the function raises, and TypeError for a result that is no reward."""
        started = time.monotonic()
        result = self._function(response=sample.response, reference=sample.reference, source=sample.source)
        if self._loop:
            result = self._loop.run_until_complete(result)
        if isinstance(result, Verdict):
            return result
        if not isinstance(result, Real | np.bool_):
            raise TypeError(f"{self._name} returned {type(result).__name__}, not a number, a bool or a Verdict")
        reward = float(result)
        return make_verdict(status_of(reward), started, reward=reward)
