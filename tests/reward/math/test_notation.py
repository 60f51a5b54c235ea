"""Notations of the same answer that `verify_math` reads as one, each (answer, reference), and what they are not."""

from __future__ import annotations

import pytest

from maspo_dist.reward import verify_math

SYMBOLS = [
    (r"\frac{d}{2}", "d/2"),
    (r"\frac{d+1}{2}", r"\frac{1+d}{2}"),
    (r"\frac{d}{d+1}", r"\frac{2d}{2d+2}"),
    ("(1/3)E_1+(2/3)E_2", r"\frac{1}{3} E_{1}+\frac{2}{3} E_{2}"),
    ("2e_1+e_2", "e_{2}+2e_{1}"),
    ("E_1+2e_1", "2e_1 + E_1"),
    ("e^{x}e_1", "e_1 e^{x}"),
    ("xE_n", "E_{n}x"),
    (r"\frac{100!}{2^{50}} \approx 1.2", r"\frac{100!}{2^{50}}"),
    ("f'(x)+1", "1+f'(x)"),
    ("f'(x)=2x", "2x"),
    (r"\$5", r"5\text{ dollars}"),
    (r"\$1.50\text{ each}", r"\$1.50"),
    (r"\$5", "5"),
]
OTHER_SYMBOLS = [
    (r"\frac{d}{2}", "d/3"),
    (r"\frac{d}{dx} x^2", "2x"),
    (r"\frac{d^2}{dx^2} x^3", "6x"),
    ("(1/3)E_1+(2/3)E_2", r"\frac{2}{3} E_{1}+\frac{1}{3} E_{2}"),
    ("E_1+2e_1", "e_1 + 2E_1"),
    (r"\frac{100!}{2^{51}} \approx 1.2", r"\frac{100!}{2^{50}}"),
    ("f'(x)", "f(x)"),
    ("f(x)", r"f^{\prime}(x)"),
    ("A'", "A"),
    ("A'B'C'", "ABC"),
    ("A'B'C'D'", "ABCD"),
    ("y' = 2x", "y = 2x"),
    (r"\$5", r"5\text{ cents}"),
    (r"5\text{ cents}", r"\$5"),
    (r"50\%", r"\$50"),
]


def _is_correct(answer: str, reference: str) -> bool:
    return verify_math(f"\\boxed{{{answer}}}", reference).status == "correct"


@pytest.mark.parametrize(("answer", "reference"), SYMBOLS)
def test_letters_that_mean_something_to_the_algebra_are_symbols_where_they_must_be(answer: str, reference: str) -> None:
    assert _is_correct(answer, reference)


@pytest.mark.parametrize(("answer", "reference"), OTHER_SYMBOLS)
def test_primes_indices_and_currencies_tell_answers_apart(answer: str, reference: str) -> None:
    assert not _is_correct(answer, reference)
