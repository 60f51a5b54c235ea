"""Scores of a set equal counts by hand."""

import io
import json

import pytest
from rich.console import Console

from maspo_dist.evaluation.results import Outcome, SetResults, mean_over_sets, results_tables, score_set


def outcome(status: str, extracted: str | None = None, tokens: int = 10, truncated: bool = False) -> Outcome:
    return Outcome(
        status=status,
        extracted=extracted,
        reward=float(status == "correct"),
        response_tokens=tokens,
        truncated=truncated,
    )


EASY = (outcome("correct", "4"), outcome("correct", "4"), outcome("wrong", "5"), outcome("timeout", "9"))
HARD = (outcome("wrong", "1"), outcome("wrong", "1"), outcome("unparsed", None, 40, True), outcome("correct", "2", 20))


def test_a_set_counted_by_hand() -> None:
    results = score_set([EASY, HARD], dropped_overlong=3)
    scores = {name: one.value for name, one in results.scores.items()}
    assert scores["avg@4"] == 3 / 8
    assert [scores[f"pass@{k}"] for k in (1, 2, 3, 4)] == pytest.approx(
        [3 / 8, (5 / 6 + 1 / 2) / 2, (1 + 3 / 4) / 2, 1]
    )
    # All four: the easy one has 2 rights against 1 and 1; the hard one 1 right against 2.
    assert scores["majority@4"] == 0.5
    assert results.truncated_share == results.unparsed_share == results.unverifiable_share == 1 / 8
    assert results.response_tokens == pytest.approx({"mean": 15, "p10": 10, "p50": 10, "p90": 26, "max": 40})
    assert results.reward_mean == pytest.approx(3 / 7)
    assert results.dropped_overlong == 3
    for one in results.scores.values():
        assert 0 <= one.low <= one.value <= one.high <= 1


def test_results_can_be_written_as_json() -> None:
    tree = json.loads(json.dumps(score_set([EASY, HARD]).tree()))
    for name in ("avg@4", "pass@1", "pass@2", "pass@3", "pass@4", "majority@4"):
        assert set(tree[name]) == {"value", "low", "high"}


def test_every_set_has_the_same_weight_in_the_mean() -> None:
    sets = {"a": score_set([EASY] * 3), "b": score_set([HARD])}
    assert mean_over_sets(sets)["avg@4"] == pytest.approx((1 / 2 + 1 / 4) / 2)


def test_the_tables_have_a_row_for_each_set_and_fit_a_terminal() -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=80)
    for table in results_tables({"olympiadbench": score_set([EASY]), "b": score_set([HARD])}):
        console.print(table)
    lines = [line.split() for line in screen.getvalue().splitlines()]
    assert ["b", "1", "25.0", "[25,", "25]", "100.0", "[100,", "100]", "0.0", "[0,", "0]"] in lines
    assert "…" not in screen.getvalue()
    assert ["mean", "over", "sets", "37.5", "100.0", "50.0"] in lines
    assert ["b", "20", "40", "25.0%", "25.0%", "0.0%"] in lines


def test_a_set_whose_right_responses_have_no_extracted_answer_has_no_majority() -> None:
    unread = score_set([(outcome("correct"), outcome("wrong"), outcome("wrong"), outcome("wrong"))])
    assert unread.scores["pass@4"].value == 1
    assert "majority@4" not in unread.scores
    assert "majority@4" not in unread.tree()
    read = score_set([EASY])
    assert "majority@4" in read.scores
    assert mean_over_sets({"read": read, "unread": unread}).keys() == unread.scores.keys()


def test_the_tables_leave_out_a_majority_that_no_set_has() -> None:
    unread = score_set([(outcome("correct"), outcome("wrong"))])
    read = score_set([(outcome("correct", "4"), outcome("wrong", "5"))])
    assert ["set", "problems", "avg@2", "pass@2"] in shown({"unread": unread})
    both = shown({"read": read, "unread": unread})
    assert ["set", "problems", "avg@2", "pass@2", "majority@2"] in both
    assert ["unread", "1", "50.0", "[50,", "50]", "100.0", "[100,", "100]", "–"] in both
    assert ["mean", "over", "sets", "50.0", "100.0", "–"] in both


def shown(sets: dict[str, SetResults]) -> list[list[str]]:
    """The words of each line of the tables."""
    screen = io.StringIO()
    for table in results_tables(sets):
        Console(file=screen, width=80).print(table)
    return [line.split() for line in screen.getvalue().splitlines()]


def test_problems_with_unlike_numbers_of_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="same number of outcomes"):
        score_set([EASY, HARD[:2]])
    with pytest.raises(ValueError, match="at least 1"):
        score_set([()])
