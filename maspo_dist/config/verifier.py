"""The `reward` section: settings of the verifier pool, and the small language that names a reward.

math                        one verifier
0.9*math + 0.1*format       a weighted sum; its parts are logged separately
python:my_rewards:Name      a function or class of your own
https://host/score          a remote verifier
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from maspo_dist.config.extension import check_form, is_extension
from maspo_dist.config.reasoning import REASONING_TAGS, ReasoningTags
from maspo_dist.config.section import Capacity, Meaning, Section

#: Verifiers that come with the package, and the class behind each name. `reward/registry.py` makes them.
BUILTIN_VERIFIERS = {
    "math": "python:maspo_dist.reward.math.verifier:MathVerifier",
    "exact": "python:maspo_dist.reward.verifiers.matching:ExactVerifier",
    "regex": "python:maspo_dist.reward.verifiers.matching:RegexVerifier",
    "multiple_choice": "python:maspo_dist.reward.verifiers.matching:MultipleChoiceVerifier",
    "json": "python:maspo_dist.reward.verifiers.matching:JsonVerifier",
    "code": "python:maspo_dist.reward.code.verifier:CodeVerifier",
    "format": "python:maspo_dist.reward.verifiers.matching:FormatVerifier",
    "reasoning_gym": "python:maspo_dist.reward.verifiers.gym:ReasoningGymVerifier",
}

_PLUS = re.compile(r"\s+\+\s+")
_WEIGHTED = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*\*\s*(.+)", re.DOTALL)
_URL = re.compile(r"https?://[^\s/]+(?:/\S*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardTerm:
    """One part of a reward: `weight` times the reward of `verifier`."""

    weight: float
    verifier: str


def parse_reward(text: str) -> tuple[RewardTerm, ...]:
    """The terms of `0.9*math + 0.1*format`; the default weight is 1. Raises ValueError naming part and fix."""
    terms = []
    for part in _PLUS.split(text.strip()):
        weighted = _WEIGHTED.fullmatch(part)
        weight, name = (float(weighted[1]), weighted[2]) if weighted else (1.0, part)
        if not math.isfinite(weight):
            raise ValueError(f"{part!r}: the weight must be finite")
        _check_name(name)
        terms.append(RewardTerm(weight=weight, verifier=name))
    names = [term.verifier for term in terms]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"verifier {name!r} stands twice in {text!r}: add its weights up")
    return tuple(terms)


def is_remote(reward: str) -> bool:
    """Whether a reward is one remote verifier, with weight 1."""
    return _URL.fullmatch(reward) is not None


def _check_name(name: str) -> None:
    if is_extension(name):
        check_form(name)
        return
    if name in BUILTIN_VERIFIERS or is_remote(name):
        return
    if name.startswith(("http:", "https:")):
        raise ValueError(f"verifier {name!r} is not a URL, such as https://host:8000/score")
    near = difflib.get_close_matches(name, BUILTIN_VERIFIERS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(BUILTIN_VERIFIERS)}"
    raise ValueError(f"no verifier is called {name!r}; {hint} (or python:module:Name, or http(s)://…)")


def _is_reward(text: str) -> str:
    parse_reward(text)
    return text


Reward = Annotated[str, AfterValidator(_is_reward)]


class RemoteConfig(Section):
    """Requests to `http(s)://…` verifiers."""

    #: Most samples in one request.
    batch_size: int = Field(32, ge=1)
    #: Seconds that a request waits for more samples.
    batch_wait_s: float = Field(0.01, ge=0)
    #: Retries after a failed request, within the deadline of the verdict.
    retries: int = Field(3, ge=0)
    #: Seconds before the first retry, doubled for each further retry.
    backoff_s: float = Field(0.2, ge=0)


class VerifierConfig(Section):
    """Which verifier scores which samples, and the limits under which it runs."""

    #: Reward per data source.
    verifiers: Meaning[dict[str, Reward]] = Field(default_factory=dict)
    #: Reward of the sources that `verifiers` does not name.
    default: Meaning[Reward] = "math"
    #: Verifier processes.
    workers: Capacity[int] = Field(2, ge=1)
    #: Hard wall-clock deadline of one verdict. A process that misses it is killed.
    timeout_s: float = Field(10.0, gt=0)
    #: Memory of one verifier process, and of one candidate program.
    memory_mb: int = Field(1024, ge=256)
    #: How candidate programs are isolated (see reward/code/sandbox.py): by user namespaces, or by refused system calls
    #: (seccomp). `auto` uses namespaces where the machine allows them.
    code_isolation: Literal["auto", "namespaces", "seccomp"] = "auto"
    #: How answers are found: `strict` reads only the last box, `lenient` also prose, #### and the last number.
    extraction: Meaning[Literal["strict", "lenient"]] = "lenient"
    #: The closing tag of each opening tag of a reasoning block. What stands in a block is no answer, whether the prompt
    #: or the response opened it.
    reasoning_tags: Meaning[ReasoningTags] = Field(default_factory=lambda: dict(REASONING_TAGS))
    #: What a list of reference answers means: `any` of them is right, or the answer must be `all` of them.
    several_answers: Meaning[Literal["any", "all"]] = "any"
    #: Most samples that wait for a process. While the queue is full, callers wait.
    queue_size: int = Field(1024, ge=1)
    #: Retries of a sample whose process died on it.
    retries_after_death: Literal[0, 1] = 0
    #: A process is replaced after this many samples, or when it has grown by half its memory.
    recycle_after: int = Field(20_000, ge=1)
    #: The run stops when a larger share of the last `unverifiable_window` samples has no verdict.
    max_unverifiable_share: float = Field(0.2, gt=0, le=1)
    #: Samples of each reward over which that share is taken.
    unverifiable_window: int = Field(256, ge=1)
    #: Seconds a verifier process may take to start.
    start_timeout_s: float = Field(120.0, gt=0)
    remote: RemoteConfig = RemoteConfig()

    def reward_for(self, source: str) -> str:
        """The reward that scores samples of `source`."""
        return self.verifiers.get(source, self.default)

    def rewards(self) -> set[str]:
        """All rewards in use."""
        return {self.default, *self.verifiers.values()}

    def rewards_by_key(self) -> dict[str, str]:
        """All rewards in use, by the configuration key that holds each."""
        by_source = {f"reward.verifiers.{source}": reward for source, reward in self.verifiers.items()}
        return {"reward.default": self.default, **by_source}
