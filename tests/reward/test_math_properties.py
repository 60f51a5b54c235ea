"""Whatever the strings hold, `verify_math` gives a verdict."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maspo_dist.reward import verify_math
from maspo_dist.reward.latex import normalise
from maspo_dist.reward.numbers import parse_number

_PIECES = st.sampled_from(
    ["\\boxed{", "}", "{", "\\frac", "\\sqrt", "^", "_", "1", "2", "-", "+", ",", "(", ")", "[", "]", "\\left", "x",
     "=", "\\pm", "\\text{a}", "%", "\\%", "$", "\\(", "\\)", "<think>", "</think>", "\\cup", "\\infty", "!", "/", " ",
     "\n", "\\begin{pmatrix}", "\\end{pmatrix}", "&", "\\\\", "\\approx", "<", "\\leq", "\\in", ".", "0", "e", "i",
     "\\pi"]
)  # fmt: skip
_TEXTS = st.one_of(st.text(st.characters(codec=None), max_size=60), st.lists(_PIECES, max_size=14).map("".join))
_SLOW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@_SLOW
@given(_TEXTS, _TEXTS)
def test_no_string_makes_it_raise(response: str, reference: str) -> None:
    verdict = verify_math(response, reference)

    assert verdict.status in ("correct", "wrong", "unparsed")


@_SLOW
@given(_TEXTS, _TEXTS)
def test_no_boxed_string_makes_it_raise(answer: str, reference: str) -> None:
    assert verify_math(f"\\boxed{{{answer}}}", reference).status in ("correct", "wrong", "unparsed")


@given(_TEXTS)
def test_normalising_twice_is_normalising_once_for_numbers(text: str) -> None:
    number = parse_number(normalise(text))

    assert number is None or parse_number(normalise(normalise(text))) == number


@given(st.integers(-(10**12), 10**12), st.integers(1, 10**6))
def test_a_fraction_equals_itself_however_it_is_written(top: int, bottom: int) -> None:
    for answer in (f"{top}/{bottom}", f"\\dfrac{{{top}}}{{{bottom}}}", f"\\frac{{{2 * top}}}{{{2 * bottom}}}"):
        assert verify_math(f"\\boxed{{{answer}}}", f"\\frac{{{top}}}{{{bottom}}}").status == "correct"


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_two_integers_are_the_same_only_if_they_are(left: int, right: int) -> None:
    assert (verify_math(f"\\boxed{{{left}}}", str(right)).status == "correct") == (left == right)
