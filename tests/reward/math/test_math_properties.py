"""Whatever the strings hold, `verify_math` gives a verdict."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maspo_dist.reward import VerifierConfig, VerifierPool, verify_math
from maspo_dist.reward.math.latex import normalise
from maspo_dist.reward.math.numbers import parse_number

_PIECES = st.sampled_from(
    ["\\boxed{", "}", "{", "\\frac", "\\sqrt", "^", "_", "1", "2", "-", "+", ",", "(", ")", "[", "]", "\\left", "x",
     "=", "\\pm", "\\text{a}", "%", "\\%", "$", "\\(", "\\)", "<think>", "</think>", "\\cup", "\\infty", "!", "/", " ",
     "\n", "\\begin{pmatrix}", "\\end{pmatrix}", "&", "\\\\", "\\approx", "<", "\\leq", "\\in", ".", "0", "e", "i",
     "\\pi"]
)  # fmt: skip
_TEXTS = st.one_of(st.text(st.characters(codec=None), max_size=60), st.lists(_PIECES, max_size=14).map("".join))
_TIMEOUT_S = 5.0
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


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(VerifierConfig(workers=2, timeout_s=_TIMEOUT_S, max_unverifiable_share=1.0)) as pool:
        yield pool


@settings(_SLOW, max_examples=40)
@given(st.lists(st.tuples(st.one_of(_TEXTS, _TEXTS.map("\\boxed{{{}}}".format)), _TEXTS), min_size=1, max_size=20))
def test_the_pool_gives_every_string_a_verdict_by_its_deadline(
    pool: VerifierPool, pairs: list[tuple[str, str]]
) -> None:
    verdicts = pool.verify_many(pairs)

    assert {verdict.status for verdict in verdicts} <= {"correct", "wrong", "unparsed", "timeout"}
    assert max(verdict.seconds for verdict in verdicts) <= _TIMEOUT_S + 1


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
