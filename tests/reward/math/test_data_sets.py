"""The data of the field on itself: its own solutions are right, another problem's are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import actors.bench.lines
from maspo_dist.reward import verify_math

SOLUTIONS = Path(__file__).parents[2] / "golden" / "gsm8k_solutions.jsonl"
ANSWERS = Path(actors.bench.lines.__file__).with_name("verifier_answers.jsonl")


def pairs(name: str) -> list[tuple[str, str]]:
    """(response, reference): whole solutions of GSM8K, answers of GSM8K and MATH in a box."""
    rows = [json.loads(line) for line in (SOLUTIONS if name == "solutions" else ANSWERS).read_text().splitlines()]
    if name == "solutions":
        return [(row["solution"], row["answer"]) for row in rows]
    return [(f"So it is $\\boxed{{{row['answer']}}}$.", row["answer"]) for row in rows if row["source"] == name]


@pytest.mark.parametrize("name", ["solutions", "gsm8k", "math"])
def test_a_data_set_is_right_on_itself_and_wrong_when_shifted(name: str) -> None:
    own = pairs(name)
    shifted = [(response, own[(i + 1) % len(own)][1]) for i, (response, _) in enumerate(own)]
    unequal = [pair for pair, (_, reference) in zip(shifted, own, strict=True) if pair[1] != reference]

    right = sum(verify_math(*pair).status == "correct" for pair in own)
    wrong = sum(verify_math(*pair).status == "wrong" for pair in unequal)

    assert len(own) >= 100
    assert right / len(own) >= 0.995
    assert wrong / len(unequal) >= 0.99
