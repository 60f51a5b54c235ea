"""`python:module:Name`: a user's own verifier, from a module outside the packages."""

from __future__ import annotations

import importlib.util
import re
import sys

import pytest

from maspo_dist.config.verifier import BUILTIN_VERIFIERS, VerifierConfig
from maspo_dist.errors import ConfigError, VerifierError
from maspo_dist.reward import Sample, VerifierPool
from maspo_dist.reward.registry import check_rewards, reference_problems

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


@pytest.mark.parametrize("name", ["other_order", "some_names"])
def test_a_function_is_called_by_the_names_of_its_parameters(name: str) -> None:
    with VerifierPool(VerifierConfig(default=OWN + name, workers=1)) as pool:
        right, wrong = pool.verify_many(
            [Sample(response=f"The answer is {n}", reference="42", source="sums") for n in (42, 41)]
        )

    assert (right.status, wrong.status) == ("correct", "wrong")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("returns_list", "returned list, not a number, a bool or a Verdict"),
        ("returns_none", "returned NoneType, not a number, a bool or a Verdict"),
        ("returns_nan", "the reward is nan"),
        ("returns_too_much", "the reward is -1e+39, not a number within ±1e+18"),
    ],
)
def test_a_result_that_is_no_reward_is_an_error(name: str, reason: str) -> None:
    with VerifierPool(VerifierConfig(default=OWN + name, workers=1)) as pool:
        (verdict,) = pool.verify_many([("The answer is 42", "42")])

    assert verdict.status == "error"
    assert reason in verdict.reason


@pytest.mark.parametrize(
    ("name", "takes"),
    [
        ("other_names", "(data_source: 'str', solution_str: 'str', ground_truth: 'str', extra_info: 'object' = None)"),
        ("lists", "(prompts: 'list[str]', completions: 'list[str]', **kwargs: 'object')"),
    ],
)
def test_a_function_with_parameters_of_other_names_is_refused(name: str, takes: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_rewards(VerifierConfig(default=OWN + name))

    assert "is called as (response=…, reference=…, source=…)" in str(caught.value)
    assert f"but takes {takes}" in str(caught.value)


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


def test_references_are_read_by_the_verifier_of_their_source() -> None:
    config = VerifierConfig(verifiers={"words": "exact", "pick": "multiple_choice", "own": f"{OWN}LastWordVerifier"})
    references = [
        ("7", "sums"), ("N/A", "sums"), ("?", "sums"), ("0.30000000000000004", "sums"), ("N/A", "words"), ("B", "pick"),
        ("Rome", "pick"), ("N/A", "own"),
    ]  # fmt: skip

    assert list(reference_problems(config, references)) == [
        "2 of 4 references of source 'sums', read by math: no answer can be read; for example 'N/A', '?'",
        "1 of 4 references of source 'sums', read by math: holds the noise of a float; for example "
        "'0.30000000000000004'",
        "1 of 2 references of source 'pick', read by multiple_choice: names no letter from A to J, or several; "
        "for example 'Rome'",
    ]
