"""From the text that names a reward to the verifier behind it.

To add a verifier to the package, write a class as the Protocol `Verifier` says (sample.py) and name it in
`BUILTIN_VERIFIERS` (config/verifier.py). A user's own, `python:module:Name`, is made by the same rules:

    a class       takes the VerifierConfig, or nothing; has `score(sample) -> Verdict`
    a function    (response, reference, source) -> float, bool or Verdict, sync or async
"""

from __future__ import annotations

import importlib
import inspect
import time
from collections.abc import Callable, Sequence
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


def remote_verifier(url: str, config: VerifierConfig) -> RemoteVerifier:
    """The verifier at `url`. Raises VerifierError when it is not healthy."""
    # httpx takes a third of a second to import, and few runs need it.
    module = importlib.import_module("maspo_dist.reward.verifiers.remote")
    verifier: RemoteVerifier = module.RemoteVerifier(url, config)
    return verifier


def judged_part(sample: Sample, config: VerifierConfig) -> str:
    """The part of the response that takes time to judge: responses that share it hang alike."""
    names = {term.verifier for term in parse_reward(config.reward_for(sample.source))} - {"format"}
    if names == {"math"}:
        return str(read_answer(sample.response, config.extraction))
    return (names == {"code"} and read_program(sample.response)) or sample.response


def _maker(name: str, key: str) -> _Maker:
    """Makes the verifier `name` from a configuration. Raises ConfigError when nothing can be made."""
    if is_remote(name):
        return lambda config: remote_verifier(name, config)
    found = load_extension(BUILTIN_VERIFIERS.get(name, name), key)
    if inspect.isclass(found):
        return _class_maker(found, name, key)
    if callable(found) and _takes(found, "response", "reference", "source"):
        return lambda config: FunctionVerifier(name, found)
    raise ConfigError(
        f"{key} names {name!r}, which is neither a function (response, reference, source) nor a class with "
        "score(sample)"
    )


def _class_maker(found: type[Any], name: str, key: str) -> _Maker:
    if not callable(getattr(found, "score", None)) or not _takes(found.score, "self", "sample"):
        raise ConfigError(f"{key} names {name!r}, but that class has no method score(sample)")
    if _takes(found, "config"):
        return found
    if _takes(found):
        return lambda config: found()
    raise ConfigError(f"{key} names {name!r}, but its constructor must take a VerifierConfig, or nothing")


def _takes(function: Callable[..., Any], *arguments: str) -> bool:
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    return True
