"""Mathematical answers. A response passes through the modules in this order:

verifier    the `math` verifier, and `verify_math`
answers     where the answer stands in a response
references  the answers in a reference, which may be a solution or a list
latex       one spelling for the many spellings of the same LaTeX
structure   the outer shape of an answer: list, tuple, set, union, matrix
numbers     numbers as people write them, exactly; `units` reads the unit behind them
relations   inequalities, ratios, and notation that only one side writes
equality    whether two answers are the same: compares by all of the above, then by values, then by algebra
evaluate    values in floats, which tell most different answers apart
guard       what is not handed to algebra because it could run without end
symbolic    equivalence by sympy, with math-verify's parser; imported when first needed
"""

from maspo_dist.reward.math.verifier import verify_math

__all__ = ["verify_math"]
