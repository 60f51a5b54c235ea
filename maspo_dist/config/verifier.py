"""Settings of the verifier pool: the `reward` section, and the small language that names a reward.

math                        one verifier
0.9*math + 0.1*format       a weighted sum; its parts are logged apart
python:my_rewards:score     a function of yours, sync or async
https://host/score          a remote scorer
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator

from maspo_dist.config.section import Capacity, Meaning, Section

#: Verifiers that come with the package.
BUILTIN_VERIFIERS = ("math", "exact", "regex", "multiple_choice", "json", "code", "format", "reasoning_gym")

_PLUS = re.compile(r"\s+\+\s+")
_WEIGHTED = re.compile(r"([+-]?[\d.]+(?:[eE][+-]?\d+)?)\s*\*\s*(.+)", re.DOTALL)
_FUNCTION = re.compile(r"python:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_URL = re.compile(r"https?://[^\s/]+(?:/\S*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardTerm:
    """One part of a reward: `weight` times what `verifier` says."""

    weight: float
    verifier: str


def parse_reward(text: str) -> tuple[RewardTerm, ...]:
    """Reads `0.9*math + 0.1*format`; a bare name weighs 1.

    Raises ValueError with one sentence that names the part that is wrong and the fix.
    """
    terms = []
    for part in _PLUS.split(text.strip()):
        weighted = _WEIGHTED.fullmatch(part)
        weight, name = _weight(weighted[1], part) if weighted else 1.0, weighted[2] if weighted else part
        _check_name(name)
        terms.append(RewardTerm(weight=weight, verifier=name))
    names = [term.verifier for term in terms]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"verifier {name!r} stands twice in {text!r}: add the weights up")
    return tuple(terms)


def _weight(digits: str, part: str) -> float:
    try:
        weight = float(digits)
    except ValueError:
        raise ValueError(f"{part!r}: {digits!r} is not a number; write a weight as 0.9*math") from None
    if not math.isfinite(weight):
        raise ValueError(f"{part!r}: the weight must be finite")
    return weight


def _check_name(name: str) -> None:
    if name in BUILTIN_VERIFIERS or _FUNCTION.fullmatch(name) or _URL.fullmatch(name):
        return
    if name.startswith("python:"):
        raise ValueError(f"verifier {name!r} must be python:module:function, such as python:my_rewards:score")
    if name.startswith(("http:", "https:")):
        raise ValueError(f"verifier {name!r} is not a URL, such as https://host:8000/score")
    near = difflib.get_close_matches(name, BUILTIN_VERIFIERS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(BUILTIN_VERIFIERS)}"
    raise ValueError(f"no verifier is called {name!r}; {hint} (or python:module:function, or http(s)://…)")


class RemoteConfig(Section):
    """How `http(s)://…` scorers are asked."""

    #: Samples in one request, at most.
    batch_size: int = Field(32, ge=1)
    #: How long a request waits for more samples, in seconds.
    batch_wait_s: float = Field(0.01, ge=0)
    #: Requests tried again after a failed one, within the deadline of the verdict.
    retries: int = Field(3, ge=0)
    #: Pause before the first retry, doubled for each further one.
    backoff_s: float = Field(0.2, ge=0)


class VerifierConfig(Section):
    """Which verifier scores what, and the limits under which it runs."""

    #: Reward by data source; the rest go to `default`.
    verifiers: Meaning[dict[str, str]] = Field(default_factory=dict)
    default: Meaning[str] = "math"
    #: Verifier processes.
    workers: Capacity[int] = Field(2, ge=1)
    #: Hard wall-clock deadline of one verdict; past it the process is killed.
    timeout_s: float = Field(10.0, gt=0)
    #: Memory of one verifier process, and of one candidate program.
    memory_mb: int = Field(1024, ge=256)
    #: What keeps candidate programs apart from the machine (see reward/sandbox.py): user namespaces, or refused
    #: system calls; auto takes namespaces where they are allowed.
    code_isolation: Literal["auto", "namespaces", "calls"] = "auto"
    #: How answers are found: strict reads only the last box, lenient also prose, #### and the last number.
    extraction: Meaning[Literal["strict", "lenient"]] = "lenient"
    #: Samples waiting for a process; callers wait while it is full.
    queue_size: int = Field(1024, ge=1)
    #: Tries of a sample whose process died on it, beyond the first.
    retries_after_death: Literal[0, 1] = 0
    #: A process is replaced after this many samples, or when it has grown by half its memory.
    recycle_after: int = Field(20_000, ge=1)
    #: Share of unverifiable samples over the last `unverifiable_window` at which the run stops.
    max_unverifiable_share: float = Field(0.2, gt=0, le=1)
    unverifiable_window: int = Field(256, ge=1)
    #: Seconds a verifier process may take to start.
    start_timeout_s: float = Field(120.0, gt=0)
    remote: RemoteConfig = RemoteConfig()

    @field_validator("default")
    @classmethod
    def _default_is_known(cls, value: str) -> str:
        parse_reward(value)
        return value

    @field_validator("verifiers")
    @classmethod
    def _verifiers_are_known(cls, value: dict[str, str]) -> dict[str, str]:
        for source, reward in value.items():
            try:
                parse_reward(reward)
            except ValueError as error:
                raise ValueError(f"source {source!r}: {error}") from None
        return value

    def reward_for(self, source: str) -> str:
        """The reward that scores samples of `source`."""
        return self.verifiers.get(source, self.default)

    def rewards(self) -> set[str]:
        """All rewards that are in use."""
        return {self.default, *self.verifiers.values()}
