"""`python:module:Name`: a user's own verifier, from a module outside the packages."""

from __future__ import annotations

import importlib.util
import re
import sys

import pytest

from maspo_dist.config.verifier import BUILTIN_VERIFIERS, VerifierConfig
from maspo_dist.errors import ConfigError, VerifierError
from maspo_dist.reward import VerifierPool
from maspo_dist.reward.registry import check_rewards

OWN = "python:doubles.own_verifier:"


def test_a_class_scores_in_the_pool_alone_and_as_a_part_of_a_sum() -> None:
    config = VerifierConfig(default=f"0.5*{OWN}LastWordVerifier + 0.5*format", workers=1)
    with VerifierPool(config) as pool:
        both, one = pool.verify_many([("\\boxed{1} so 4", "4"), ("\\boxed{1} so 5", "4")])

    assert both.components == ((f"{OWN}LastWordVerifier", 1.0), ("format", 1.0))
    assert (both.reward, both.status, both.extracted) == (1.0, "correct", "4")
    assert (one.reward, one.status, one.extracted) == (0.5, "wrong", "5")


def test_a_class_gets_the_configuration_where_it_takes_one() -> None:
    config = VerifierConfig(default=f"{OWN}TimeoutVerifier", workers=1, timeout_s=7.5)
    with VerifierPool(config) as pool:
        assert pool.verify_many([("", "")])[0].reward == 7.5


@pytest.mark.parametrize(
    ("name", "reason"),
    [("NumberVerifier", "score returned float, not a Verdict"), ("InfiniteVerifier", "the reward is inf")],
)
def test_a_score_that_is_no_verdict_is_an_error_of_its_sample(name: str, reason: str) -> None:
    with VerifierPool(VerifierConfig(default=OWN + name, workers=1)) as pool:
        (verdict,) = pool.verify_many([("", "")])

    assert verdict.status == "error"
    assert reason in verdict.reason


BROKEN = {
    "ScorelessVerifier": "but that class has no method score(sample)",
    "TwoArgumentsVerifier": "but its constructor must take a VerifierConfig, or nothing",
    "NOT_A_VERIFIER": "which is neither a function (response, reference, source) nor a class with score(sample)",
}


@pytest.mark.parametrize(("name", "sentence"), BROKEN.items())
def test_the_check_says_in_one_sentence_what_is_wrong(name: str, sentence: str) -> None:
    config = VerifierConfig(verifiers={"gsm8k": f"0.5*{OWN}{name} + 0.5*math"})

    with pytest.raises(ConfigError, match=f"^{re.escape(f'reward.verifiers.gsm8k names {OWN + name!r}, {sentence}')}$"):
        check_rewards(config)


@pytest.mark.parametrize(
    ("reward", "sentence"),
    [
        ("python:no_such_module:Name", "reward.default is 'python:no_such_module:Name', but importing no_such_module"),
        (f"{OWN}Missing", "but module doubles.own_verifier has no Missing"),
    ],
)
def test_the_check_names_a_module_or_name_that_is_not_there(reward: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        check_rewards(VerifierConfig(default=reward))


def test_the_same_sentence_ends_a_pool_that_was_not_checked() -> None:
    with (
        VerifierPool(VerifierConfig(default=f"{OWN}ScorelessVerifier", workers=1)) as pool,
        pytest.raises(VerifierError, match="no method score"),
    ):
        pool.verify_many([("", "")])


def test_every_built_in_passes_the_check_where_its_package_is_installed() -> None:
    missing = set() if importlib.util.find_spec("reasoning_gym") else {"reasoning_gym"}
    own = {name: name for name in BUILTIN_VERIFIERS if name not in missing}

    check_rewards(VerifierConfig(verifiers={**own, "function": "python:doubles.sample_rewards:length_reward"}))


def test_the_check_says_how_to_install_the_package_of_a_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)

    with pytest.raises(ConfigError, match=r"pip install 'maspo-dist\[reasoning-gym\]'"):
        check_rewards(VerifierConfig(default="0.5*reasoning_gym + 0.5*format"))
