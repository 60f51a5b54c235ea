"""reasoning_gym as data source and scorer, against a double with the package's own bad habits.

`maspo-dist bench reasoning_gym` runs all tasks of the real package, where it is installed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.errors import ConfigError
from maspo_dist.reward.sample import Sample
from maspo_dist.reward.verifiers.gym import ReasoningGymVerifier, generate_rows
from maspo_dist.types import Verdict


class Gym:
    """Three tasks: `sums` raises on words, `coin_flip` takes anything, `grids` compares tuples and number keys."""

    made: int = 0

    def create_dataset(self, name: str, /, *, size: int, seed: int) -> Iterable[dict[str, Any]]:
        if name not in ("sums", "coin_flip", "grids", "broken"):
            raise ValueError(f"Dataset '{name}' not registered")
        cells = {"cells": {(seed, 1): {2: "x"}}, "shape": (1, 2)}
        return [{"question": f"{n} + 1?", "answer": str(n + 1), "metadata": cells} for n in range(size)]

    def get_score_answer_fn(self, name: str, /) -> Callable[..., float]:
        self.made += 1
        return getattr(self, f"score_{name}")

    def score_sums(self, answer: str, entry: dict[str, Any]) -> float:
        return 1.0 if int(answer) == int(entry["answer"]) else 0.25

    def score_coin_flip(self, answer: str, entry: dict[str, Any]) -> float:
        return 1.0

    def score_grids(self, answer: str, entry: dict[str, Any]) -> float:
        cells = entry["metadata"]
        return float(cells["shape"] == (1, 2) and cells["cells"][(7, 1)][2] == "x")

    def score_broken(self, answer: str, entry: dict[str, Any]) -> float:
        raise KeyError("always")


def ask(task: str, response: str) -> Verdict:
    (row,) = generate_rows(task, 1, 7, Gym())
    return ReasoningGymVerifier(package=Gym()).score(Sample(response=response, reference=row["answer"]))


def test_rows_carry_all_that_the_scorer_needs() -> None:
    rows = list(generate_rows("sums", 3, 7, Gym()))

    assert [row["problem"] for row in rows] == ["0 + 1?", "1 + 1?", "2 + 1?"]
    assert {row["source"] for row in rows} == {"reasoning_gym"}
    assert json.loads(rows[0]["answer"])["task"] == "sums"


@pytest.mark.parametrize("response", ["1", "<answer>1</answer>", "\\boxed{1}", "<think>2</think> 1"])
def test_the_tasks_own_scorer_judges(response: str) -> None:
    assert (ask("sums", response).status, ask("sums", response).reward) == ("correct", 1.0)


def test_what_stands_in_a_reasoning_block_of_configured_tags_is_no_answer() -> None:
    (row,) = generate_rows("sums", 1, 7, Gym())
    config = VerifierConfig.model_validate({"reasoning_tags": {"<plan>": "</plan>"}})
    verifier = ReasoningGymVerifier(config, package=Gym())

    assert verifier.score(Sample(response="<plan>\\boxed{2}</plan> 1", reference=row["answer"])).status == "correct"
    assert verifier.score(Sample(response="<plan>\\boxed{1}", reference=row["answer"])).status == "unparsed"


def test_a_partial_reward_is_kept_and_its_response_counts_as_wrong() -> None:
    assert (ask("sums", "5").status, ask("sums", "5").reward) == ("wrong", 0.25)


def test_entries_come_back_as_they_were() -> None:
    assert ask("grids", "anything").reward == 1.0


def test_an_answer_that_the_scorer_cannot_read_is_wrong_and_says_so() -> None:
    verdict = ask("sums", "I do not know")

    assert (verdict.status, verdict.reward) == ("wrong", 0.0)
    assert "cannot read it: ValueError" in verdict.reason


def test_a_scorer_that_cannot_read_its_own_answer_is_at_fault() -> None:
    with pytest.raises(KeyError):
        ask("broken", "1")


def test_a_scorer_known_to_take_too_much_is_not_believed() -> None:
    assert [ask("coin_flip", answer).status for answer in ("1", "1.0", "0", "nan", "I do not know")] == [
        "correct", "correct", "wrong", "wrong", "wrong",
    ]  # fmt: skip


def test_a_scorer_is_made_once_per_task() -> None:
    gym = Gym()
    scorer = ReasoningGymVerifier(package=gym)
    for row in generate_rows("sums", 5, 7, gym):
        scorer.score(Sample(response="1", reference=row["answer"]))

    assert gym.made == 1


def test_an_unknown_task_is_refused_in_one_sentence() -> None:
    with pytest.raises(ConfigError, match="has no task 'sum': Dataset 'sum' not registered"):
        list(generate_rows("sum", 1, 0, Gym()))


def test_without_the_package_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)

    with pytest.raises(ConfigError, match=r"pip install 'maspo-dist\[reasoning-gym\]'"):
        ReasoningGymVerifier()
