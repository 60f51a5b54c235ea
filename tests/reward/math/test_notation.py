"""Notations of the same answer that `verify_math` reads as one, each (answer, reference), and what they are not."""

from __future__ import annotations

import pytest

from maspo_dist.reward import verify_math

THOUSANDS = [
    (r"n = 2{,}048", "2048"),
    ("n=2,048", "2048"),
    (r"2^{11} = 2{,}048", "2048"),
    (r"2^{11} = 2,048", "2048"),
    (r"\binom{50}{2} = 1{,}225", "1225"),
    (r"\text{Profit} = \$1{,}200", "1200"),
    (r"2{,}304\pi", r"2304\pi"),
    (r"2,304\pi", r"2304\pi"),
    (r"2,\!304\pi", r"2304\pi"),
    (r"2304\pi", r"2{,}304\pi"),
    (r"2304\pi", r"2,304\pi"),
    (r"\frac{4{,}000}{3}\pi", r"\frac{4000}{3}\pi"),
    (r"1{,}000\sqrt3", r"1000\sqrt3"),
    (r"1{,}000x+5", "1000x+5"),
    ("1,000x+5", "1000x+5"),
    ("x > 1,000", "x > 1000"),
    (r"(1{,}000, 2{,}000)", "(1000, 2000)"),
    ("(1,000, 2,000)", "(1000, 2000)"),
    (r"1{,}000 \text{ and } 2{,}000", "1000, 2000"),
    (r"1,000 \text{ and } 2,000", "1000, 2000"),
    (r"\text{1,000 and 2,000}", "1000, 2000"),
    ("1{,}234{,}567,890", "1234567890"),
]
NO_THOUSANDS = [
    ("n=2, 048", "2048"),
    (r"x=1,\,200", "1200"),
    ("n=2,048", "48"),
    ("n=2,048", "2"),
    (r"n = 2{,}049", "2048"),
    (r"n = 2{,}048", "2, 48"),
    ("1,200, 3", "1200"),
    (r"2{,}048, 5", "2048"),
    ("(1,200)", "1200"),
    ("(x,y) = (1,200)", "1200"),
    ("P = (1,200)", "1200"),
    ("1200", r"x \in \{1,200\}"),
    (r"\{1,200\}", "1200"),
    ("[1,200]", "1200"),
    ("a_{1,200}", "a_{1200}"),
    ("x_1,200", "x_1200"),
    ("f(1,200)", "f(1200)"),
    ("x=1,200,y=3", "x=1200,y=3"),
]
LISTS_OF_THREE_DIGITS = [
    ("(1,200)", "(1, 200)"),
    (r"\{1,200\}", "1, 200"),
    ("1,200", "1, 200"),
    ("100,200,300", "100, 200, 300"),
    ("(1,200)", r"\begin{pmatrix}1&200\end{pmatrix}"),
]

TYPE = [
    (r"\mathbf{\frac{3}{4}}", r"\frac34"),
    (r"\boldsymbol{-\frac12}", r"-\frac12"),
    (r"\bm{\boldsymbol{\frac12}}", "0.5"),
    (r"\boldsymbol{x=3}", "3"),
    (r"\mathbf{2\pi}", r"2\pi"),
    (r"\mathbf{(1,2)}", "(1,2)"),
    (r"\mathbf{75\%}", r"75\%"),
    (r"\mathbf{12\sqrt3}", r"12\sqrt3"),
    (r"\mathbf{-i}", "-i"),
    (r"\mathbf{i} + \mathbf{j}", r"\mathbf{j} + \mathbf{i}"),
    (r"\text{50\%}", r"50\%"),
    (r"50\%", r"\text{50\%}"),
    (r"\text{\$3.50}", r"\$3.50"),
    (r"\text{3:4}", "3:4"),
    (r"\text{6 and 8}", "6, 8"),
    (r"\text{A, C, D}", "A,C,D"),
    ("C, B", r"\text{B,C}"),
    (r"\text{(A), (C)}", "A, C"),
    (r"\text{May 5}", "May 5"),
    (r"\text{12 cm}^2", "12"),
    (r"\text{12 cm}^2", r"12\text{ cm}^2"),
]
OTHER_IN_TYPE = [
    (r"\mathbf{\frac{3}{4}}", r"\frac43"),
    (r"\mathbf{(1,2)}", "(2,1)"),
    (r"\mathbf{i} + 2\mathbf{j}", r"\mathbf{i}+\mathbf{j}"),
    (r"\text{3:4}", "4:3"),
    (r"\text{6 and 8}", "6"),
    (r"\text{6 or 8}", "8"),
    (r"\text{A, C, D}", "A"),
    ("B", r"\text{B,C}"),
    (r"\text{A, C}", "A, C, D"),
    (r"\text{May 5}", "5"),
    (r"\text{May 6}", r"\text{May 5}"),
    (r"\text{12 cm}^2", "144"),
    (r"\text{CO2}", r"\text{OC2}"),
    (r"\text{5 (or 4)}", "5"),
    (r"\text{50\%}", r"50^\circ"),
]

SPELLINGS = [
    (r"x\in\{1,2\}", "1,2"),
    (r"x \in\{1,2\}", r"\{2, 1\}"),
    (r"\begin{pmatrix} \frac12 \\[6pt] 3 \end{pmatrix}", r"\begin{pmatrix} 1/2 \\ 3 \end{pmatrix}"),
    (r"\begin{pmatrix} 1 & 2 \\[0.5ex] 3 & 4\end{pmatrix}", r"\begin{pmatrix} 1 & 2 \\ 3 & 4\end{pmatrix}"),
    (r"\sqrt[3]{2}", r"\sqrt[3]2"),
    (r"5\sqrt[3]4+1", r"5\sqrt[3]{4}+1"),
    (r"\{x \mid x>3\}", "x>3"),
    (r"(3,\infty)", r"\{x \mid x>3\}"),
    (r"\{x : 1<x<2\}", "(1,2)"),
    (r"\{x\in\mathbb R : x \ge 3\}", r"[3,\infty)"),
    (r"\{x \mid x<1 \text{ or } x>3\}", r"(-\infty,1)\cup(3,\infty)"),
    (r"\{y \mid y>3\}", r"\{x \mid x>3\}"),
    (r"\begin{cases} x=1\\ y=2\end{cases}", "(1,2)"),
    (r"\begin{cases} x=1,\\[4pt] y=2.\end{cases}", "x=1,y=2"),
    ("y=2, x=1", r"\begin{cases} x=1\\ y=2\end{cases}"),
]
OTHER_SPELT_ALIKE = [
    (r"x\in(1,2)", "[1,2]"),
    (r"x\in\{1,2\}", "1,3"),
    (r"\begin{pmatrix} \frac12 \\[2mm] 4 \end{pmatrix}", r"\begin{pmatrix} 1/2 \\ 3 \end{pmatrix}"),
    (r"\sqrt[3]2", r"\sqrt[3]{3}"),
    (r"\{x \mid x>3\}", r"x \geq 3"),
    (r"\{x \mid x>3\}", "3"),
    (r"\{x \in \mathbb{Z} \mid x>3\}", "x>3"),
    (r"\{x \mid y>3\}", "y>3"),
    (r"\{x \mid x>1, x<3\}", r"(-\infty,3)\cup(1,\infty)"),
    (r"\{x \mid |x|<3\}", "x<3"),
    (r"\begin{cases} x=2\\ y=1\end{cases}", "(1,2)"),
    (r"\begin{cases} x=1\\ x=2\end{cases}", "1,2"),
    (r"\begin{cases} 4 \\ 5 \end{cases}", "4,5"),
    (r"\begin{cases} x=1\\ y=2\end{cases}", "2"),
    (r"\begin{cases} x & x>0 \\ -x & x<0\end{cases}", "x"),
]

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


@pytest.mark.parametrize(("answer", "reference"), THOUSANDS + LISTS_OF_THREE_DIGITS)
def test_thousands_are_read_inside_a_formula_and_lists_of_three_digits_stay_lists(answer: str, reference: str) -> None:
    assert _is_correct(answer, reference)


@pytest.mark.parametrize(("answer", "reference"), NO_THOUSANDS)
def test_a_comma_that_separates_no_thousands_joins_nothing(answer: str, reference: str) -> None:
    assert not _is_correct(answer, reference)


@pytest.mark.parametrize(("answer", "reference"), TYPE)
def test_bold_type_and_text_around_a_whole_formula_change_nothing(answer: str, reference: str) -> None:
    assert _is_correct(answer, reference)


@pytest.mark.parametrize(("answer", "reference"), OTHER_IN_TYPE)
def test_bold_type_and_text_make_no_other_answer_right(answer: str, reference: str) -> None:
    assert not _is_correct(answer, reference)


@pytest.mark.parametrize(("answer", "reference"), SPELLINGS)
def test_sets_matrices_roots_and_systems_are_read_in_every_spelling(answer: str, reference: str) -> None:
    assert _is_correct(answer, reference)


@pytest.mark.parametrize(("answer", "reference"), OTHER_SPELT_ALIKE)
def test_a_set_matrix_root_or_system_that_is_spelt_alike_is_another_answer(answer: str, reference: str) -> None:
    assert not _is_correct(answer, reference)


@pytest.mark.parametrize(("answer", "reference"), SYMBOLS)
def test_letters_that_mean_something_to_the_algebra_are_symbols_where_they_must_be(answer: str, reference: str) -> None:
    assert _is_correct(answer, reference)


@pytest.mark.parametrize(("answer", "reference"), OTHER_SYMBOLS)
def test_primes_indices_and_currencies_tell_answers_apart(answer: str, reference: str) -> None:
    assert not _is_correct(answer, reference)
