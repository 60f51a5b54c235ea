"""How references are read: as answers are, in every form that data sets hold them."""

from __future__ import annotations

import pytest

from maspo_dist.reward import Sample, VerifierConfig, verify_math
from maspo_dist.reward.math.references import read_reference, reference_problem
from maspo_dist.reward.math.verifier import MathVerifier
from maspo_dist.reward.verifiers.matching import ExactVerifier, MultipleChoiceVerifier, RegexVerifier

READ_AS = [
    ("7", "7"),
    ("$7$", "$7$"),
    ("x = 2 or x = 3", "x = 2 or x = 3"),
    ("no real solutions", "no real solutions"),
    ("Add three and four. The sum is $\\boxed{7}$.", "7"),
    ("Adding three and four gives seven. Therefore, the answer is: 7.", "7"),
    ("3 + 4 = 7\n#### 7", "7"),
    ("<think>3 or 4?</think><answer>7</answer>", "7"),
    ("The final answer is $\\frac{1}{2}$. I hope it is correct.", "\\frac{1}{2}"),
    ("We have 3 apples. Then we buy 4. So there are 7 apples.", "7"),
    ("July 4", "July 4"),
    ("The sum of the digits is 7.", "7"),
    ("The value is $\\frac{1}{2}$", "\\frac{1}{2}"),
    ("The solution set is $\\{1, 2\\}$.", "\\{1, 2\\}"),
    ("The numbers are 3, 4, and 5", "3, 4, and 5"),
    ("The roots are $1$ and $2$.", "1 and 2"),
    ("Hence $x = 5$.", "x = 5"),
    ("The sequence is even", "The sequence is even"),
    ("The set of all integers that are not 3", "The set of all integers that are not 3"),
    ("0.10000000149011612", "0.1"),
    ("2.700000047683716", "2.7"),
    ("-2.700000047683716", "-2.7"),
    ("0.30000000000000004", "0.3"),
    ("5.999999999999999", "6"),
    ("1.1000000000000001", "1.1"),
    ("1234.5999755859375", "1234.6"),
    ("0.3333333432674408", "0.3333333"),
    ("3.14159265358979", "3.14159265358979"),
    ("0.6666666666666666", "0.6666666666666666"),
    ("0.123456789", "0.123456789"),
    ("33.333333333333336", "33.3333333333333"),
    ("1e-06", "1e-06"),
    ("['70']", "70"),
    ('["70"]', "70"),
    ("[1, 2]", "[1, 2]"),
]


@pytest.mark.parametrize(("reference", "answer"), READ_AS)
def test_a_reference_is_read_as_an_answer_is(reference: str, answer: str) -> None:
    assert read_reference(reference) == (answer,)


@pytest.mark.parametrize(
    ("reference", "answer", "right"),
    [
        ("Add three and four. The sum is $\\boxed{7}$.", "7", True),
        ("Adding three and four gives seven. Therefore, the answer is: 7.", "7", True),
        ("Adding three and four gives seven. Therefore, the answer is: 7.", "8", False),
        ("0.10000000149011612", "0.1", True),
        ("0.10000000149011612", "0.11", False),
        ("2.700000047683716", "2.7", True),
        ("0.3333333432674408", "\\frac{1}{3}", True),
        ("33.333333333333336", "\\frac{100}{3}", True),
        ("33.333333333333336", "33", False),
        ("14.285714285714286", "\\frac{100}{7}", True),
        ("1.4142135623730951", "\\sqrt{2}", True),
        ("1.4142135623730951", "\\sqrt{3}", False),
        ("66.66666666666667", "66", False),
        ("The numbers are 3, 4, and 5", "5", False),
        ("025", "25", True),
        ("1e-06", "0.000001", True),
        ("3.0", "3", True),
    ],
)
def test_an_answer_is_compared_with_what_a_person_wrote(reference: str, answer: str, right: bool) -> None:
    assert (verify_math(f"\\boxed{{{answer}}}", reference).status == "correct") == right


@pytest.mark.parametrize(
    ("reference", "answers"),
    [
        ('["1/2", "0.5"]', ("1/2", "0.5")),
        ("['1/2', '0.5']", ("1/2", "0.5")),
        ('["\\\\frac{1}{2}", "0.5"]', ("\\frac{1}{2}", "0.5")),
        ("['\\frac{1}{2}', '0.5']", ("\\frac{1}{2}", "0.5")),
        ('["(1, 2)", "(2, 1)"]', ("(1, 2)", "(2, 1)")),
        ("['it\\'s', \"5\"]", ("it's", "5")),
        ("['1' '2']", ("['1' '2']",)),
    ],
)
def test_a_list_of_texts_is_several_references(reference: str, answers: tuple[str, ...]) -> None:
    assert read_reference(reference) == answers


def test_any_of_several_answers_is_right_unless_all_are_wanted() -> None:
    any_of, all_of = VerifierConfig(), VerifierConfig(several_answers="all")
    reference = '["2", "-3"]'
    statuses = {
        answer: [
            MathVerifier(config).score(Sample(response=f"\\boxed{{{answer}}}", reference=reference)).status
            for config in (any_of, all_of)
        ]
        for answer in ("2", "-3", "-3, 2", "5")
    }

    assert statuses == {
        "2": ["correct", "wrong"],
        "-3": ["correct", "wrong"],
        "-3, 2": ["wrong", "correct"],
        "5": ["wrong", "wrong"],
    }


def test_text_verifiers_take_several_answers_too() -> None:
    all_of = VerifierConfig(several_answers="all")

    def status(verifier: ExactVerifier | RegexVerifier | MultipleChoiceVerifier, answer: str, reference: str) -> str:
        return verifier.score(Sample(response=f"\\boxed{{{answer}}}", reference=reference)).status

    assert status(ExactVerifier(), "Rome", '["Roma", "Rome"]') == "correct"
    assert status(ExactVerifier(all_of), "Rome", '["Roma", "Rome"]') == "wrong"
    assert status(ExactVerifier(all_of), "Rome, Roma", '["Roma", "Rome"]') == "correct"
    assert status(RegexVerifier(), "ab", '["a+", "ab?"]') == "correct"
    assert status(RegexVerifier(all_of), "ab", '["a+", "ab?"]') == "wrong"
    assert status(MultipleChoiceVerifier(), "C", '["B", "C"]') == "correct"
    assert status(MultipleChoiceVerifier(), "B, C", '["B", "C"]') == "wrong"
    assert status(MultipleChoiceVerifier(all_of), "B, C", '["B", "C"]') == "correct"
    assert status(MultipleChoiceVerifier(all_of), "B", '["B", "C"]') == "wrong"


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("7", ""),
        ("\\frac{1}{2}", ""),
        ("[0, 1)", ""),
        ("]0, 1[", ""),
        ("Paris", ""),
        ("x = 2 \\text{ or } x = 3", ""),
        ("\\begin{cases} x & y \\\\ 1 & 2 \\end{cases}", ""),
        ("N/A", "no answer can be read"),
        ("nan", "no answer can be read"),
        ("?", "no answer can be read"),
        ("The box is $\\boxed{}$", "no answer can be read"),
        ("Look at the picture. It shows the proof.", "no answer can be read"),
        ("0.30000000000000004", "holds the noise of a float, and is read as 0.3"),
        ('["7", "0.10000000149011612"]', "holds the noise of a float, and is read as 0.1"),
        ("\\frac{1}{2", "its brackets do not match"),
        (
            "the function grows without any bound whenever the argument becomes larger than every number",
            "is prose, which only the same words equal",
        ),
    ],
)
def test_what_cannot_be_compared_is_named(reference: str, problem: str) -> None:
    assert reference_problem(reference) == problem
