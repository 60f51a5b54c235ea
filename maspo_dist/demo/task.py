"""The demo's task: addition, written out column by column.

    problem   583+749
    response  3+9=12 8+4+1=13 5+7+1=13 \\boxed{1332}

Columns go from the ones up; a carry is the third summand. The number of digits varies, and with it
the length of the response.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Name under which the demo's rows ask for their verifier.
SOURCE = "addition"


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """left + right, both non-negative."""

    left: int
    right: int

    @property
    def problem(self) -> str:
        return f"{self.left}+{self.right}"

    @property
    def answer(self) -> str:
        return str(self.left + self.right)

    @property
    def solution(self) -> str:
        """The worked response, as in the module's example."""
        columns: list[str] = []
        carry = 0
        left, right = self.left, self.right
        while left or right or not columns:
            digits = [left % 10, right % 10, *([carry] if carry else [])]
            columns.append(f"{'+'.join(map(str, digits))}={sum(digits)}")
            carry = sum(digits) // 10
            left, right = left // 10, right // 10
        return f"{' '.join(columns)} \\boxed{{{self.answer}}}"


def draw_problems(
    train: int, heldout: int, digits: tuple[int, int], rng: np.random.Generator
) -> tuple[list[Addition], list[Addition]]:
    """Draws `train` + `heldout` problems, no two with the same summands in either order.

    `digits` bounds the length of the summands, which is the same for both; each length is drawn as
    often as any other, repeats aside. The two lists are slices of one shuffled list of distinct
    problems, hence disjoint and alike. Raises ValueError when there are not that many.
    """
    shortest, longest = digits
    possible = sum(_distinct_pairs(9 * 10 ** (length - 1)) for length in range(shortest, longest + 1))
    if train + heldout > possible:
        raise ValueError(f"{train} + {heldout} problems of {digits} digits were asked for, but there are {possible}")
    seen: set[tuple[int, int]] = set()
    problems: list[Addition] = []
    while len(problems) < train + heldout:
        length = int(rng.integers(shortest, longest + 1))
        left, right = (int(n) for n in rng.integers(10 ** (length - 1), 10**length, size=2))
        pair = (min(left, right), max(left, right))
        if pair not in seen:
            seen.add(pair)
            problems.append(Addition(left=left, right=right))
    # Short problems repeat, so they grow rare towards the end of the list.
    shuffled = [problems[i] for i in rng.permutation(len(problems))]
    return shuffled[heldout:], shuffled[:heldout]


def _distinct_pairs(numbers: int) -> int:
    """Pairs of `numbers` numbers in either order, both alike included."""
    return numbers * (numbers + 1) // 2
