"""The Markdown table of a results.json, counted by hand, and how a README is held to it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from maspo_dist.compare.markdown import markdown_table
from maspo_dist.errors import DataError

ROOT = Path(__file__).parents[2]
RESULTS: dict[str, Any] = {
    "against": "grpo",
    "tuning": {
        "variants": [
            {"variant": "maspo", "chosen": {"learner.lr": "3e-5"}},
            {"variant": "grpo", "chosen": {"learner.lr": "6e-5"}},
        ]
    },
    "variants": [
        {
            "name": "maspo",
            "final": {"mean": 0.9, "low": 0.85, "high": 0.95},
            "area": {"mean": 0.635, "low": 0.6, "high": 0.67},
            "pass_area": {"mean": 0.7, "low": 0.6, "high": 0.8},
        },
        {
            "name": "grpo",
            "final": {"mean": 0.912, "low": 0.9, "high": 0.924},
            "area": {"mean": 0.532, "low": None, "high": None},
        },
    ],
    "tests": [
        {
            "variant": "maspo",
            "measure": "final",
            "seeds": [0, 1, 2],
            "difference": {"mean": -0.012, "low": -0.05, "high": 0.026},
            "ahead": 1,
            "p": 0.5,
            "p_holm": 1.0,
        },
        {
            "variant": "maspo",
            "measure": "area",
            "seeds": [0, 1, 2],
            "difference": {"mean": 0.103, "low": 0.05, "high": 0.156},
            "ahead": 3,
            "p": 0.00390625,
            "p_holm": 0.0117,
        },
    ],
}
TABLE = "\n".join(
    (
        "<!-- maspo-dist compare-table route.json -->",
        "| variant | tuned | end | area | area, against grpo | end, against grpo |",
        "| --- | --- | --- | --- | --- | --- |",
        "| maspo | learner.lr=3e-5 | .900 ± .050 | .635 ± .035 "
        "| +.103 ± .053 (ahead on 3 of 3, p = .004, by Holm .012) "
        "| −.012 ± .038 (ahead on 1 of 3, p = .500, by Holm 1.000) |",
        "| grpo | learner.lr=6e-5 | .912 ± .012 | .532 |  |  |",
        "",
    )
)


def test_a_table_counted_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("route.json").write_text(json.dumps(RESULTS))
    assert markdown_table(Path("route.json")) == TABLE


@pytest.mark.parametrize(
    ("content", "mistake"),
    [
        (b"", "is not JSON"),
        (b"# Results", "is not JSON"),
        (b'"\xe9"', "is not JSON"),
        (b"[]", "is not the results.json of a comparison"),
        (b"{}", "is not the results.json of a comparison"),
    ],
)
def test_a_file_that_is_no_comparison_is_refused_with_one_sentence(
    tmp_path: Path, content: bytes, mistake: str
) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(content)
    assert refusal(path) == f"{path} {mistake}: give the results.json that maspo-dist compare has written"


def test_a_missing_file_a_folder_and_a_comparison_without_finished_runs_are_one_sentence(tmp_path: Path) -> None:
    fix = "give the results.json that maspo-dist compare has written"
    assert refusal(tmp_path / "nowhere.json") == f"{tmp_path}/nowhere.json does not exist: {fix}"
    assert refusal(tmp_path) == f"{tmp_path} cannot be read (Is a directory): {fix}"
    path = tmp_path / "results.json"
    path.write_text(json.dumps({**RESULTS, "variants": []}))
    assert refusal(path) == f"{path} holds no finished run: resume the comparison first"


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        markdown_table(path)
    return str(caught.value)


def outdated(text: str) -> list[str]:
    """The results whose table, which compare-table has written into a Markdown file, no longer shows them."""
    block = r"<!-- maspo-dist compare-table (\S+) -->\n(?:\|.*\n)*"
    return [found[1] for found in re.finditer(block, text) if found[0] != markdown_table(Path(found[1]))]


def test_the_tables_of_the_readme_are_those_of_their_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert outdated((ROOT / "README.md").read_text()) == [], "run maspo-dist compare-table with each of these files"


def test_a_table_with_another_digit_or_without_a_row_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("route.json").write_text(json.dumps(RESULTS))
    assert outdated(f"Before.\n\n{TABLE}\nAfter.\n") == []
    assert outdated(TABLE.replace(".635", ".636")) == ["route.json"]
    assert outdated("".join(TABLE.splitlines(keepends=True)[:-1])) == ["route.json"]
