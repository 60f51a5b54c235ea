"""The table in the README of the mathematics grader is what the bench computes."""

from __future__ import annotations

from pathlib import Path

import pytest

import maspo_dist.reward.math
from actors.bench.math import CASES, MathPair, golden_pairs, own_pairs, part_of_all_pairs, score_case

README = Path(maspo_dist.reward.math.__file__).with_name("README.md")


def table() -> dict[str, list[str]]:
    """The cells of each row, by the layers of the row."""
    lines = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows}


def test_the_table_has_a_row_for_each_case_and_counts_the_pairs() -> None:
    header, *rows = table().items()

    assert [case for case, _ in rows] == list(CASES)
    counts = [f"{len(golden_pairs())} golden pairs", f"{len(own_pairs())} own pairs", "every 6th of both"]
    assert header[1][:3] == counts


@pytest.mark.parametrize("case", CASES)
def test_each_row_of_the_table_holds_what_the_bench_counts_on_a_part_of_the_pairs(case: str) -> None:
    assert table()[case][2] == str(score_case(case, part_of_all_pairs()))


def test_the_last_row_of_the_table_holds_what_the_whole_verifier_scores_on_all_pairs() -> None:
    whole = list(CASES)[-1]

    assert table()[whole][:2] == [str(score_case(whole, golden_pairs())), str(score_case(whole, own_pairs()))]


def test_wrong_verdicts_are_counted_by_kind() -> None:
    def pair(answer: str, *, expected: bool) -> MathPair:
        return MathPair(
            name="", response=f"\\boxed{{{answer}}}", reference="4", expected=expected, debatable=False, category=""
        )

    score = score_case(list(CASES)[-1], [pair("4", expected=False), pair("5", expected=True), pair("4", expected=True)])

    assert (score.pairs, score.wrongly_accepted, score.wrongly_refused) == (3, 1, 1)
