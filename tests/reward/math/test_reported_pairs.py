"""Pairs of the kinds on which graders of this field were reported to fail, each (reference, answer, whether right)."""

from __future__ import annotations

import pytest

from maspo_dist.reward import verify_math

REPORTED = [
    ("7", r"7\sqrt(3)", False),
    (r"\frac{1}{1905!}", r"\frac{1}{1907!}", False),
    (r"\frac{1}{3^{90}}", r"\frac{1}{3^{89}}", False),
    ("n=3, 5, 7", "n=1, 5, 7", False),
    ("D=(0,2)", "D=(0,2.5)", False),
    (r"17, 40, \text{ and } 71", "23, 30, and 71", False),
    (r"17, 40, \text{ and } 71", "71, 17, and 40", True),
    (r"\pm 1999", "1999", False),
    ("11:00", "1:00", False),
    (r"1, 3, \ldots, 2n-1", r"1, 2, \ldots, n", False),
    (r"2-\frac{1}{\mathrm{e}}", r"2+\frac{1}{\mathrm{e}}", False),
    ("2*x-5*y+11=0", "2x+7y+12=0", False),
    ("3x+6y-5=0", r"y = -\frac{1}{2}x + \frac{5}{6}", True),
    ("512 and 729", "729", False),
    ("512 and 729", "729, 512", True),
    ("28", r"\text{28}", True),
    (r"\frac{x^2}{9}+\frac{y^2}{5}=1", r"\frac{x^2}{36}+\frac{y^2}{20}=1", False),
    (r"\frac{x^2}{9}+\frac{y^2}{5}=1", "5x^2+9y^2=45", True),
    (r"[\sqrt{3},+\infty)", r"k \geq \sqrt{3}", True),
    (r"k \geq \sqrt{3}", r"k \in [\sqrt{3}, +\infty)", True),
    ("(0, 7.5)", "0 < x < 7.5", True),
    ("x<4", r"(-\infty,4)", True),
    (r"\left( 2, \frac{\pi}{3} \right)", r"(2, \frac{3\pi}{3})", False),
    (r"\left( 2, \frac{\pi}{3} \right)", r"(2, \frac{2\pi}{6})", True),
    ("1,-3", "1,-2", False),
    (r"\text{Marta}", "Marta", True),
    ("11", "711", False),
    (r"\dfrac{\pi}{5}", "pi/5", True),
    ("9 - i", "9.0 + -1.0i", True),
    (r"-3\pi", "-3*pi", True),
]

FUNCTIONS_WITHOUT_BACKSLASH = [
    ("e^{9} - 4", "-4 + exp(9)", True),
    (r"\ln 2", "ln(2)", True),
    (r"\frac{1}{2}\ln 3", "(1/2)ln(3)", True),
    (r"\sin(x)+1", "sin(x)+1", True),
    (r"e^{x}\cos x", "e^x cos(x)", True),
    (r"\log_2 3", "log_2(3)", True),
    (r"\arctan 2", "arctan(2)", True),
    (r"7\sqrt{3}", r"7\sqrt(3)", True),
    (r"\frac{\sqrt{3}}{2}", r"\sqrt(3)/2", True),
    (r"\sqrt{2}", "sqrt2", True),
    (r"\sqrt{3}+2", "sqrt(3)+2", True),
    (r"\ln 2", "ln(3)", False),
    (r"\sin x", "cos(x)", False),
    (r"\ln(x+1)", "ln(x+1)", True),
    (r"\ln|x|+C", "ln|x|+C", True),
    (r"\sin^2 x", "sin^2(x)", True),
    (r"\sqrt{x^2+1}", "sqrt(x^2+1)", True),
    (r"\sqrt{2+\sqrt{3}}", "sqrt(2+sqrt(3))", True),
    (r"\sqrt[3]{5}", "cbrt(5)", True),
    (r"\sqrt[3]{5}", r"\sqrt[3](5)", True),
    (r"\frac{\ln 2}{\ln 3}", "ln(2)/ln(3)", True),
    (r"\frac{\ln 2}{\ln 3}", "ln2/ln3", True),
    ("e^{-x}", "exp(-x)", True),
    ("e^{-x^2/2}", "exp(-x^2/2)", True),
    (r"x\cos x", "xcos(x)", True),
    (r"x\cos x", "x*cos(x)", True),
    (r"\sin x+\cos x", "sinx+cosx", True),
    (r"\sec^2 x", "sec^2(x)", True),
    ("5 sec", "5", True),
    ("5", "5 sec", True),
    (r"\arcsin\frac{1}{3}", "asin(1/3)", True),
    (r"\arctan 2", "atan(2)", True),
    (r"\arctan 2", r"\tan^{-1}(2)", True),
    (r"\log_{10} 7", "log10(7)", True),
    (r"\log_2 5", "log2(5)", True),
    (r"3\sqrt{3}", "3sqrt(3)", True),
    (r"3\sqrt{3}", "3√3", True),
    (r"\sqrt{12}", "√12", True),
    (r"2\sqrt{3}", "√12", True),
    (r"\sqrt{12}", "sqrt12", True),
    (r"\sqrt{3}", "sqrt(2)", False),
    (r"\sinh 1", "sinh(1)", True),
    ("|x-1|", "abs(x-1)", True),
    (r"(0,\infty)", "(0, inf)", True),
    (r"(0,\infty)", "(0, infinity)", True),
    (r"\ln 2", "log(3)", False),
    (r"\exp(2)", "e^2", True),
    (r"\frac{\pi}{3}", "arccos(1/2)", True),
    (r"\cos x", "sin(x)", False),
    (r"\tan x", "tan(x)", True),
    (r"\frac{1}{2}", "frac{1}{2}", True),
    (r"\frac{e^2-1}{2}", "(exp(2)-1)/2", True),
    (r"\frac{\sqrt{2}}{2}", "sqrt(2)/2", True),
    (r"\frac{\sqrt{6}-\sqrt{2}}{4}", "(sqrt(6)-sqrt(2))/4", True),
    (r"-\ln 2", "-ln(2)", True),
    (r"2\ln 2-1", "2ln(2)-1", True),
    (r"2\ln 2-1", "2ln2 - 1", True),
    (r"\sqrt{a^2+b^2}", r"\sqrt(a^2+b^2)", True),
    (r"\cos\theta", "cos(theta)", True),
    (r"\log 2", r"\log(2)", True),
    (r"\csc x", "csc(x)", True),
    (r"\frac{\sin x}{x}", "sin(x)/x", True),
    (r"\sin(2x)", "sin(2x)", True),
    (r"\sin 2x", "sin(2x)", True),
    (r"2\sin x\cos x", "sin(2x)", True),
    (r"\cos^2 x", "1 - sin(x)^2", True),
    (r"\sqrt{x}", "x^(1/2)", True),
    ("2^{1/3}", "2**(1/3)", True),
    (r"\lfloor x\rfloor", "floor(x)", True),
    ("x e^{x}", "x*exp(x)", True),
    ("x e^{x}", "xexp(x)", True),
    (r"\text{cost}", "cost", True),
    (r"\sin x", "sin x", True),
]

LABELS_AND_ORDER = [
    (r"x=2 \text{ or } x=-3", "-3, 2", True),
    (r"x=2 \text{ or } x=-3", "2, -3", True),
    ("-3, 2", r"x=2 \text{ or } x=-3", True),
    (r"\{-3, 2\}", "x=2, x=-3", True),
    ("x=2, x=-3", "x=-3, x=2", True),
    ("2, 3", "x_1=3, x_2=2", True),
    ("x=2, y=-3", "-3, 2", False),
    ("x=2, y=-3", "(2,-3)", True),
    ("(2,-3)", "y=-3, x=2", True),
    (r"a=1 \text{ or } a=-2", "-2, 1", True),
    ("x=1, x=2", "n=1, n=2", False),
    ("2, 3", "x = 3, 2", True),
    ("x_1=2, x_2=3", "x_1=3, x_2=2", True),
    ("x=2, x=3", "x_1=3, x_2=2", True),
    ("a_1=2, a_2=3", "3, 2", False),
    ("a_1=2, a_2=3", "2, 3", True),
    ("x=2,y=-3", "(x,y)=(2,-3)", True),
    ("(x,y)=(2,-3)", "y=-3, x=2", True),
    ("(x,y)=(2,-3)", "x=-3, y=2", False),
    ("(x, y, z) = (1,2,3)", "x=1,y=2,z=3", True),
    ("x=2,y=-3", "(-3,2)", False),
    ("x=2, x=-3", "x=2", False),
    ("x=2", "x=2, x=-3", False),
    ("x=2,x=-3", "a=2,b=-3", False),
    (r"x = \pm 2", "2, -2", True),
    ("2, -2", r"x = \pm 2", True),
    ("x=2, y=3", "x=3, y=2", False),
    (r"\{2, 3\}", r"x \in \{3, 2\}", True),
    ("f(1)=2, f(2)=3", "3, 2", False),
    (r"x=1 \pm \sqrt{2}", r"1-\sqrt{2}, 1+\sqrt{2}", True),
    ("(2,3)", "x=2, y=3", True),
    ("(3,2)", "x=2, y=3", False),
    ("(1,2)", "(x,y)=(1,2)", True),
    ("(2,1)", "(y,x)=(1,2)", True),
    (r"x=0 \text{ or } x=\frac{5}{2}", "x=2.5, x=0", True),
    (r"2 \text{ and } 3", r"x = 2 \text{ or } x = 3", True),
    (r"x=2, y=3 \text{ or } x=3, y=2", "x=2, y=3", False),
    ("t=1, t=4", r"t = 4 \text{ and } t = 1", True),
    ("r=1, s=4", "4, 1", False),
    ("(1,4)", "s=4, r=1", True),
    (r"x = 2 \text{ or } 3", r"3 \text{ or } 2", True),
]


@pytest.mark.parametrize(("reference", "answer", "right"), REPORTED)
def test_pairs_that_other_graders_misjudged_are_judged_rightly(reference: str, answer: str, right: bool) -> None:
    assert (verify_math(f"\\boxed{{{answer}}}", reference).status == "correct") == right


@pytest.mark.parametrize(("reference", "answer", "right"), FUNCTIONS_WITHOUT_BACKSLASH)
def test_a_function_without_a_backslash_is_its_latex(reference: str, answer: str, right: bool) -> None:
    assert (verify_math(f"\\boxed{{{answer}}}", reference).status == "correct") == right


@pytest.mark.parametrize(("reference", "answer", "right"), LABELS_AND_ORDER)
def test_labels_say_whether_order_counts(reference: str, answer: str, right: bool) -> None:
    assert (verify_math(f"\\boxed{{{answer}}}", reference).status == "correct") == right


def test_an_answer_that_is_repeated_after_a_rule_is_read_once() -> None:
    response = "The number that own all three is **58**.\n\n---\n\nFinal Answer: **58**"

    assert verify_math(response, "58").status == "correct"
