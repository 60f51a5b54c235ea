"""From the text that names a reward to the verifier behind it.

To add a verifier to the package, write a class as the Protocol `Verifier` says (sample.py) and name it in
`BUILTIN_VERIFIERS` (config/verifier.py). A user's own, `python:module:Name`, is made by the same rules:

    a class       takes the VerifierConfig, or nothing; has `score(sample) -> Verdict`
    a function    (response, reference, source) -> float, bool or Verdict, sync or async
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from maspo_dist.config.extension import load_extension
from maspo_dist.config.verifier import BUILTIN_VERIFIERS, VerifierConfig, is_remote, parse_reward
from maspo_dist.errors import ConfigError
from maspo_dist.reward.sample import Verifier
from maspo_dist.reward.verifiers.function import FunctionVerifier
from maspo_dist.reward.verifiers.gym import load_package
from maspo_dist.reward.verifiers.weighted import WeightedPart, WeightedVerifier

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
    terms = parse_reward(reward)
    parts = tuple(
        WeightedPart(weight=term.weight, name=term.verifier, verifier=_maker(term.verifier, key)(config))
        for term in terms
    )
    if len(parts) == 1 and parts[0].weight == 1.0:
        return parts[0].verifier
    return WeightedVerifier(parts)


def remote_verifier(url: str, config: VerifierConfig) -> RemoteVerifier:
    """The verifier at `url`. Raises VerifierError when it is not healthy."""
    # httpx takes a third of a second to import, and few runs need it.
    module = importlib.import_module("maspo_dist.reward.verifiers.remote")
    verifier: RemoteVerifier = module.RemoteVerifier(url, config)
    return verifier


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
