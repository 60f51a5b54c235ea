"""An answer field may hold a list: each of its texts is an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from maspo_dist.config import PromptConfig
from maspo_dist.data.rows import read_rows
from maspo_dist.errors import DataError
from maspo_dist.reward import verify_math


def answer_of(folder: Path, answer: Any) -> str:
    path = folder / "sums.jsonl"
    path.write_text(json.dumps({"problem": "1+2", "answer": answer}) + "\n")
    return next(iter(read_rows(str(path), PromptConfig()))).answer


@pytest.mark.parametrize(
    ("answer", "right"),
    [(["3"], ["3"]), ([3], ["3"]), (["1/2", 0.75], ["\\frac{1}{2}", "0.75"]), (["\\frac{1}{2}", "2"], ["0.5", "2"])],
)
def test_each_answer_of_a_list_is_right(tmp_path: Path, answer: list[Any], right: list[str]) -> None:
    reference = answer_of(tmp_path, answer)

    assert [verify_math(f"\\boxed{{{text}}}", reference).status for text in right] == ["correct"] * len(right)
    assert verify_math("\\boxed{41}", reference).status == "wrong"


@pytest.mark.parametrize("answer", [[], [[3]], [None], [{"value": 3}], [""]])
def test_a_list_that_holds_no_answers_is_refused(tmp_path: Path, answer: list[Any]) -> None:
    with pytest.raises(DataError, match="field 'answer'"):
        answer_of(tmp_path, answer)


def test_a_column_of_lists_is_read_too(tmp_path: Path) -> None:
    table = pyarrow.table({"problem": ["1+2", "1+3"], "answer": [["3"], ["4", "four"]]})
    pyarrow.parquet.write_table(table, tmp_path / "sums.parquet")

    rows = list(read_rows(str(tmp_path / "sums.parquet"), PromptConfig()))

    assert [row.answer for row in rows] == ["3", '["4", "four"]']
