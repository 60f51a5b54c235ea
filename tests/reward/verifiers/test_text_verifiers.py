"""exact, regex, multiple_choice, json, format: what each takes for right."""

from __future__ import annotations

import pytest

from maspo_dist.reward.sample import Sample, Verifier
from maspo_dist.reward.verifiers.matching import (
    ExactVerifier,
    FormatVerifier,
    JsonVerifier,
    MultipleChoiceVerifier,
    RegexVerifier,
)


def status(verifier: Verifier, response: str, reference: str) -> str:
    return verifier.score(Sample(response=response, reference=reference)).status


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("Paris", "correct"),
        ("  Paris\n", "correct"),
        ("It is <answer>Paris</answer>.", "correct"),
        ("\\boxed{Paris}", "correct"),
        ("<think>London</think>Paris", "correct"),
        ("<answer>London</answer> no: <answer>Paris</answer>", "correct"),
        ("paris", "wrong"),
        ("It is Paris.", "wrong"),
        ("Paris or London", "wrong"),
        ("<think>Paris</think>", "unparsed"),
        ("", "unparsed"),
    ],
)
def test_exact_is_letter_for_letter(response: str, expected: str) -> None:
    assert status(ExactVerifier(), response, "Paris") == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("#a1", "correct"),
        ("<answer>#ff</answer>", "correct"),
        ("x #a1", "wrong"),
        ("#a1\n#b2", "wrong"),
        (" ", "unparsed"),
    ],
)
def test_regex_matches_the_whole_answer(response: str, expected: str) -> None:
    assert status(RegexVerifier(), response, "#[0-9a-f]{2}") == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("The answer is C", "correct"),
        ("The answer is (C).", "correct"),
        ("\\boxed{C}", "correct"),
        ("\\boxed{\\text{C}}", "correct"),
        ("\\boxed{(C) \\; 12}", "correct"),
        ("<answer>C</answer>", "correct"),
        ("Answer: C. Paris", "correct"),
        ("**C**", "correct"),
        ("A is wrong and so is B. The answer is C.", "correct"),
        ("The answer is C because it is the largest.", "correct"),
        ("The correct answer is (C), which is the capital.", "correct"),
        ("The correct answer is (C) Paris, which is the capital.", "correct"),
        ("Answer: C, because it is a prime.", "correct"),
        ("The answer is C since A is too small.", "correct"),
        ("The answer is C, as A is too small.", "correct"),
        ("The correct answer is (C) because A and B fail.", "correct"),
        ("The answer is option C, because it is.", "correct"),
        ("Answer: C is correct.", "correct"),
        ("Answer: A is wrong, so C", "correct"),
        ("The answer is 12, which is C.", "correct"),
        ("The answer is B", "wrong"),
        ("The answer is A since C is too small.", "wrong"),
        ("The answer is A or C because both are prime.", "unparsed"),
        ("The answer is C, as well as A.", "wrong"),
        ("The answer: C is wrong because it is small", "unparsed"),
        ("The answer: (C) fails because it is small", "unparsed"),
        ("The answer is C, which is wrong; it is small.", "unparsed"),
        ("The answer is (C) or (B) because it is small", "unparsed"),
        ("\\boxed{B, C}", "wrong"),
        ("\\boxed{A} \\boxed{B} \\boxed{C, D}", "wrong"),
        ("The answer is A or C", "wrong"),
        ("\\boxed{A B C D}", "wrong"),
        ("I do not know", "unparsed"),
        ("<think>C</think>", "unparsed"),
    ],
)
def test_multiple_choice_takes_one_letter(response: str, expected: str) -> None:
    assert status(MultipleChoiceVerifier(), response, "C") == expected


@pytest.mark.parametrize("reference", ["C", "(C)", "c", "\\text{C}", " C "])
def test_a_choice_may_be_written_in_any_way_in_the_reference(reference: str) -> None:
    assert status(MultipleChoiceVerifier(), "\\boxed{C}", reference) == "correct"


@pytest.mark.parametrize(
    ("response", "reward", "expected"),
    [
        ('{"name": "Ada", "born": 1815}', 1.0, "correct"),
        ('Sure:\n```json\n{"born": 1815.0, "name": "Ada", "died": 1852}\n```', 1.0, "correct"),
        ('{"name": "x"} and then {"name": "Ada", "born": 1815}', 1.0, "correct"),
        ('{"name": "Ada", "born": 1816}', 0.5, "wrong"),
        ('{"name": "Ada"}', 0.5, "wrong"),
        ('{"name": "Ada", "born": true}', 0.5, "wrong"),
        ("{}", 0.0, "wrong"),
        ('["Ada", 1815]', 0.0, "unparsed"),
        ('{"name": "Ada", "born": 1815', 0.0, "unparsed"),
        ('<think>{"name": "Ada", "born": 1815}</think> no idea', 0.0, "unparsed"),
        ("[" * 100_000, 0.0, "unparsed"),
        ("{" * 100_000, 0.0, "unparsed"),
    ],
)
def test_json_compares_the_fields_of_the_reference(response: str, reward: float, expected: str) -> None:
    verdict = JsonVerifier().score(Sample(response=response, reference='{"name": "Ada", "born": 1815}'))

    assert (verdict.reward, verdict.status) == (reward, expected)


def test_json_says_which_fields_differ_and_looks_into_nested_ones() -> None:
    scorer = JsonVerifier()
    reference = '{"a": {"b": [1, 2]}, "c": null}'

    assert status(scorer, '{"a": {"b": [1, 2]}, "c": null}', reference) == "correct"
    verdict = scorer.score(Sample(response='{"a": {"b": [2, 1]}, "c": null}', reference=reference))
    assert (verdict.status, verdict.reason) == ("wrong", "fields that differ: a")


@pytest.mark.parametrize(
    ("response", "good"),
    [
        ("So it is \\boxed{4}.", True),
        ("<think>well</think>\\boxed{4}", True),
        ("well</think>\\boxed{4}", True),
        ("<think>\\boxed{3}</think>\\boxed{4}", True),
        ("4", False),
        ("\\boxed{}", False),
        ("\\boxed{3} or \\boxed{4}", False),
        ("<think>well \\boxed{4}", False),
        ("<think>a</think><think>b</think>\\boxed{4}", False),
        ("</think></think>\\boxed{4}", False),
        ("", False),
    ],
)
def test_format_wants_one_block_and_one_box(response: str, good: bool) -> None:
    verdict = FormatVerifier().score(Sample(response=response, reference=""))

    assert (verdict.reward, verdict.status) == ((1.0, "correct") if good else (0.0, "wrong"))
    assert bool(verdict.reason) != good
