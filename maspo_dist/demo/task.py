"""The demo's task: addition, written out column by column.

    problem   583+749
    response  3+9=12 8+4+1=13 5+7+1=13 \\boxed{1332}

Columns start at the ones; a carry is the third summand. The length of a response grows with the number of digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Source of the demo's rows, which picks their verifier.
SOURCE = "addition"


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """left + right; both are at least 0."""

    left: int
    right: int

    @property
    def problem(self) -> str:
        return f"{self.left}+{self.right}"

    @property
    def answer(self) -> str:
        return str(self.left + self.right)

    @property
    def bare_solution(self) -> str:
        """The answer alone, in its box."""
        return f"\\boxed{{{self.answer}}}"

    @property
    def solution(self) -> str:
        """The worked response, as at the top of this module."""
        columns: list[str] = []
        carry = 0
        left, right = self.left, self.right
        while left or right or not columns:
            digits = [left % 10, right % 10, *([carry] if carry else [])]
            columns.append(f"{'+'.join(map(str, digits))}={sum(digits)}")
            carry = sum(digits) // 10
            left, right = left // 10, right // 10
        return f"{' '.join(columns)} {self.bare_solution}"


def draw_problems(
    train: int, heldout: int, digits: tuple[int, int], rng: np.random.Generator
) -> tuple[list[Addition], list[Addition]]:
    """Draws `train` + `heldout` problems, no two with the same summands in either order.

    Both summands of a problem have the same length, drawn uniformly between the bounds `digits`; repeated problems are
    drawn again. The two lists are disjoint slices of one shuffled list. Raises ValueError when fewer problems exist.
    """
    shortest, longest = digits
    numbers = [9 * 10 ** (length - 1) for length in range(shortest, longest + 1)]
    possible = sum(count * (count + 1) // 2 for count in numbers)
    if train + heldout > possible:
        raise ValueError(f"{train} + {heldout} problems of {digits} digits are wanted, but there are {possible}")
    seen: set[tuple[int, int]] = set()
    problems: list[Addition] = []
    while len(problems) < train + heldout:
        length = int(rng.integers(shortest, longest + 1))
        left, right = (int(n) for n in rng.integers(10 ** (length - 1), 10**length, size=2))
        pair = (min(left, right), max(left, right))
        if pair not in seen:
            seen.add(pair)
            problems.append(Addition(left=left, right=right))
    # Few short problems exist, so the end of the list holds few of them.
    shuffled = [problems[i] for i in rng.permutation(len(problems))]
    return shuffled[heldout:], shuffled[:heldout]
