"""From the text that names a reward to the verifier behind it.

To add a verifier to the package, write a class as the Protocol `Verifier` says (sample.py) and name it in
`BUILTIN_VERIFIERS` (config/verifier.py). A user's own, `python:module:Name`, is made by the same rules:

    a class       takes the VerifierConfig, or nothing; has `score(sample) -> Verdict`
    a function    (response, reference, source) -> float, bool or Verdict, by these names, sync or async
"""

from __future__ import annotations

import importlib
import inspect
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from maspo_dist.config.extension import load_extension
from maspo_dist.config.verifier import BUILTIN_VERIFIERS, VerifierConfig, is_remote, parse_reward
from maspo_dist.errors import ConfigError
from maspo_dist.reward.code.program import read_program
from maspo_dist.reward.math.answers import read_answer
from maspo_dist.reward.sample import Sample, Verifier
from maspo_dist.reward.verifiers.function import FunctionVerifier
from maspo_dist.reward.verifiers.gym import load_package
from maspo_dist.types import Verdict

if TYPE_CHECKING:
    from maspo_dist.reward.verifiers.remote import RemoteVerifier

#: Examples of a problem with references, and the characters shown of each.
_EXAMPLES, _EXAMPLE_CHARS = 3, 60

#: A response of this length is read in about 10 ms.
_READ_CHARS = 100_000

_Maker = Callable[[VerifierConfig], Verifier]


def check_rewards(config: VerifierConfig) -> None:
    """Imports every verifier in use and its optional package, without making any or starting a process.

    Raises ConfigError with one sentence that names the key.
    """
    for key, reward in config.rewards_by_key().items():
        for term in parse_reward(reward):
            _maker(term.verifier, key)
            if term.verifier == "reasoning_gym":
                load_package()


def build_verifier(reward: str, config: VerifierConfig) -> Verifier:
    """The verifier of `reward`, ready for its first sample.

    Raises ConfigError when a module or an optional package is missing, VerifierError when a remote verifier is not
    healthy.
    """
    key = next((key for key, other in config.rewards_by_key().items() if other == reward), "reward")
    parts = [(term.weight, term.verifier, _maker(term.verifier, key)(config)) for term in parse_reward(reward)]
    return parts[0][2] if len(parts) == 1 and parts[0][0] == 1.0 else WeightedVerifier(parts)


class WeightedVerifier:
    """Σ weight · reward. Status and extracted answer are those of the first part.

    A part without a verdict leaves the whole without a verdict: half a reward is not a reward.
    """

    def __init__(self, parts: Sequence[tuple[float, str, Verifier]]) -> None:
        """`parts` are weights, names and verifiers."""
        self._parts = parts

    def score(self, sample: Sample) -> Verdict:
        """Raises what a part raises."""
        started = time.monotonic()
        scored = [(weight, name, verifier.score(sample)) for weight, name, verifier in self._parts]
        first = scored[0][2]
        failed = next((verdict for _, _, verdict in scored if not verdict.verifiable), None)
        return Verdict(
            reward=0.0 if failed else sum(weight * verdict.reward for weight, _, verdict in scored),
            status=failed.status if failed else first.status,
            extracted=first.extracted,
            seconds=time.monotonic() - started,
            reason="; ".join(f"{name}: {verdict.reason}" for _, name, verdict in scored if verdict.reason),
            components=tuple((name, verdict.reward) for _, name, verdict in scored),
        )


def reference_problems(config: VerifierConfig, references: Iterable[tuple[str, str]]) -> Iterator[str]:
    """One sentence per kind of problem with references (reference, source), as the verifier of their source sees them.

    Verifiers without `check_reference` accept every reference. Raises ConfigError as `check_rewards` does.
    """
    checks: dict[str, list[tuple[str, Callable[[str], str]]]] = {}
    found: dict[tuple[str, str, str], list[str]] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for (reference, source), count in Counter(references).items():
        counts[source, ""] += count
        if source not in checks:
            checks[source] = _reference_checks(config, config.reward_for(source), f"reward.verifiers.{source}")
        for verifier, check in checks[source]:
            if problem := check(reference):
                kind = problem.partition(", and is read as")[0]
                found.setdefault((source, verifier, kind), []).append(reference)
                counts[source, verifier + kind] += count
    for (source, verifier, kind), examples in found.items():
        shown = ", ".join(repr(example[:_EXAMPLE_CHARS]) for example in examples[:_EXAMPLES])
        yield (
            f"{counts[source, verifier + kind]} of {counts[source, '']} references of source {source!r}, read by "
            f"{verifier}: {kind}; for example {shown}"
        )


def _reference_checks(config: VerifierConfig, reward: str, key: str) -> list[tuple[str, Callable[[str], str]]]:
    checks = []
    for term in parse_reward(reward):
        if not is_remote(term.verifier):
            found = load_extension(BUILTIN_VERIFIERS.get(term.verifier, term.verifier), key)
            if check := getattr(found, "check_reference", None):
                checks.append((term.verifier, check))
            if check := getattr(found, "check_cost", None):
                checks.append((term.verifier, partial(check, config=config)))
    return checks


def remote_verifier(url: str, config: VerifierConfig) -> RemoteVerifier:
    """The verifier at `url`. Raises VerifierError when it is not healthy."""
    # httpx takes a third of a second to import, and few runs need it.
    module = importlib.import_module("maspo_dist.reward.verifiers.remote")
    verifier: RemoteVerifier = module.RemoteVerifier(url, config)
    return verifier


def judged_part(sample: Sample, config: VerifierConfig) -> str:
    """The part of the response that takes time to judge: responses that share it hang alike.

    A long response stands for itself: the pool's own threads call this, and reading must not hold them up.
    """
    if len(sample.response) > _READ_CHARS:
        return sample.response
    names = {term.verifier for term in parse_reward(config.reward_for(sample.source))} - {"format"}
    if names == {"math"}:
        return str(read_answer(sample.response, config.extraction, config.reasoning_tags))
    return (names == {"code"} and read_program(sample.response, config.reasoning_tags)) or sample.response


def _maker(name: str, key: str) -> _Maker:
    """Makes the verifier `name` from a configuration. Raises ConfigError when nothing can be made."""
    if is_remote(name):
        return lambda config: remote_verifier(name, config)
    found = load_extension(BUILTIN_VERIFIERS.get(name, name), key)
    if inspect.isclass(found):
        return _class_maker(found, name, key)
    if not callable(found):
        raise ConfigError(
            f"{key} names {name!r}, which is neither a function (response, reference, source) nor a class with "
            "score(sample)"
        )
    if not _takes(found, response="", reference="", source=""):
        raise ConfigError(
            f"{key} names {name!r}, which is called as (response=…, reference=…, source=…) but takes "
            f"{_signature(found)}: give its parameters these names"
        )
    return lambda config: FunctionVerifier(name, found)


def _class_maker(found: type[Any], name: str, key: str) -> _Maker:
    if not callable(getattr(found, "score", None)) or not _takes(found.score, "self", "sample"):
        raise ConfigError(f"{key} names {name!r}, but that class has no method score(sample)")
    if _takes(found, "config"):
        return found
    if _takes(found):
        return lambda config: found()
    raise ConfigError(f"{key} names {name!r}, but its constructor must take a VerifierConfig, or nothing")


def _takes(function: Callable[..., Any], *arguments: str, **named: str) -> bool:
    try:
        inspect.signature(function).bind(*arguments, **named)
    except (TypeError, ValueError):
        return False
    return True


def _signature(function: Callable[..., Any]) -> str:
    try:
        return str(inspect.signature(function))
    except (TypeError, ValueError):
        return "parameters without names"
