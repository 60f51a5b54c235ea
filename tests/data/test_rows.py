"""Rows of data files: what is read, what is refused, and in which words."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from prompt_files import WriteLines, load

from maspo_dist.config import PromptConfig
from maspo_dist.data.rows import read_rows
from maspo_dist.errors import DataError

CONFIG = PromptConfig()


@pytest.mark.parametrize(
    ("written", "reference"),
    [
        ("12", "12"),
        ("1.50", "1.50"),
        ("-3e-8", "-3e-8"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
    ],
)
def test_number_answers_are_taken_as_written(write: WriteLines, written: str, reference: str) -> None:
    assert load(write(f'{{"problem": "x", "answer": {written}}}')).prompts[0].reference == reference


def test_blank_lines_count_and_other_line_separators_do_not_end_lines(write: WriteLines) -> None:
    path = write("", '{"problem": "a\u2028b\x85c", "answer": "1"}', "", {"problem": "b", "answer": "2"})
    assert [row.row_id for row in read_rows(path, CONFIG)] == ["sums-2", "sums-4"]


def test_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "bom.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"problem": "a", "answer": "1"}\r\n{"problem": "b", "answer": "2"}\r\n')
    assert [row.problem for row in read_rows(str(path), CONFIG)] == ["a", "b"]


def test_parquet_reads_as_jsonl_does(tmp_path: Path) -> None:
    path = tmp_path / "sums.parquet"
    table = pyarrow.table({"problem": ["1+2", "4+5"], "answer": [3, 9], "source": ["addition", None]})
    pyarrow.parquet.write_table(table, path)
    first, second = load(str(path)).prompts
    assert (first.prompt_id, first.reference, first.source) == ("sums-1", "3", "addition")
    assert (second.prompt_id, second.reference, second.source) == ("sums-2", "9", "sums")


REFUSED_LINES = [
    ('{"problem": "1', r"line 2: not JSON at column 13 \(Unterminated string starting\)"),
    ('{"problem": "1", "answer": NaN}', r"line 2: field 'answer' is nan instead of text or a number"),
    ('["1+2", "3"]', "line 2: a list instead of an object with fields"),
    (
        '{"problem": "1+2", "solution": "3", "id": 4}',
        "line 2: no field 'answer'; the row has problem, solution, id: set data.answer_field",
    ),
    (
        '{"question": "1+2", "answer": "3"}',
        "line 2: no field 'problem'; the row has question, answer: set data.problem_field",
    ),
    (
        r'{"prob\nlem": "1+2", "answer": "3"}',
        r"line 2: no field 'problem'; the row has 'prob\\nlem', answer: set data.problem_field",
    ),
    ('{"problem": "1+2", "answer": null}', "line 2: field 'answer' is null instead of text or a number"),
    ('{"problem": "1+2", "answer": true}', "line 2: field 'answer' is true instead"),
    ('{"problem": "1+2", "answer": []}', "line 2: field 'answer' is an empty list"),
    ('{"problem": "1+2", "answer": {"x": 1}}', "line 2: field 'answer' is an object instead"),
    ('{"problem": "1+2", "answer": "  "}', "line 2: field 'answer' is empty"),
    ('{"problem": "", "answer": "3"}', "line 2: field 'problem' is empty"),
    ('{"problem": [], "answer": "3"}', "line 2: field 'problem' is an empty list"),
    ('{"problem": ["1+2"], "answer": "3"}', "line 2: field 'problem' is a list, but not of chat messages"),
    ('{"problem": "\\ud800", "answer": "3"}', "line 2: field 'problem' holds half a surrogate pair"),
    ("[" * 200_000, "line 2: nested too deeply"),
]


@pytest.mark.parametrize(("line", "sentence"), REFUSED_LINES, ids=[line[:34] for line, _ in REFUSED_LINES])
def test_a_bad_row_is_named_by_file_and_line(write: WriteLines, line: str, sentence: str) -> None:
    path = write({"problem": "1+2", "answer": "3"}, line)
    with pytest.raises(DataError, match=sentence) as caught:
        load(path)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_suggests_the_nearest_name(write: WriteLines, tmp_path: Path) -> None:
    path = write({"problem": "1", "answer": "1"})
    with pytest.raises(DataError, match=r"sum\.jsonl does not exist; did you mean .*sums\.jsonl\?"):
        load(path.replace("sums", "sum"))
    with pytest.raises(DataError, match="there is no folder"):
        load(str(tmp_path / "nowhere" / "sums.jsonl"))
    with pytest.raises(DataError, match="is a folder"):
        load(str(tmp_path))


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    binary = tmp_path / "weights.bin"
    binary.write_bytes(b"\x01\xff\x00\x80" * 10)
    with pytest.raises(DataError, match="not UTF-8"):
        load(str(binary))
    parquet = tmp_path / "broken.parquet"
    parquet.write_bytes(b"PAR1 this is none")
    with pytest.raises(DataError, match=r"broken\.parquet cannot be read: Parquet magic bytes"):
        load(str(parquet))


def test_an_empty_data_set_is_refused(write: WriteLines) -> None:
    with pytest.raises(DataError, match="holds no rows"):
        load(write(""))


def test_data_sets_of_the_hub_are_read_or_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = types.ModuleType("datasets")

    def load_dataset(name: str, configuration: str | None, split: str) -> list[dict[str, object]]:
        if name == "who/unreachable":
            raise ConnectionError("Couldn't reach the hub\ndetails")
        if name == "who/script":
            raise RuntimeError("Dataset scripts are no longer supported, but found script.py")
        if name == "who/columns":
            error = type("DatasetGenerationError", (Exception,), {"__module__": "datasets.exceptions"})
            raise error("An error occurred while generating the dataset") from TypeError("column names don't match")
        if name == "openai/gsm8k" and not configuration:
            raise ValueError(
                "Config name is missing.\nPlease pick one among the available configs: ['main', 'socratic']\n"
                "Example of usage:\n\t`load_dataset('openai/gsm8k', 'main')`"
            )
        return [{"problem": " ".join(filter(None, (name, configuration, split))), "answer": 1}]

    monkeypatch.setattr(hub, "load_dataset", load_dataset, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    assert next(read_rows("hf:who/sums", CONFIG)).problem == "who/sums train"
    row = next(read_rows("hf:who/sums:test", CONFIG))
    assert (row.problem, row.row_id, row.source) == ("who/sums test", "sums-1", "sums")
    for data_set, problem in (("hf:openai/gsm8k/main", "train"), ("hf:openai/gsm8k/main:test", "test")):
        row = next(read_rows(data_set, CONFIG))
        assert (row.problem, row.source) == (f"openai/gsm8k main {problem}", "gsm8k")
    with pytest.raises(DataError, match=r"write hf:openai/gsm8k/CONFIG with one of 'main', 'socratic'$"):
        next(read_rows("hf:openai/gsm8k:test", CONFIG))
    with pytest.raises(DataError, match=r"cannot be loaded from the hub \(Couldn't reach the hub\)"):
        next(read_rows("hf:who/unreachable", CONFIG))
    with pytest.raises(DataError, match=r"from the hub \(Dataset scripts are no longer supported"):
        next(read_rows("hf:who/script", CONFIG))
    with pytest.raises(DataError, match=r"from the hub \(column names don't match\)"):
        next(read_rows("hf:who/columns", CONFIG))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs the package datasets: install maspo-dist\[hub\]"):
        next(read_rows("hf:who/sums", CONFIG))


def test_a_message_with_tool_calls_is_refused(write: WriteLines) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": "{}"}}
    for content in ("let me look", None):
        asked = [{"role": "user", "content": "1+2"}, {"role": "assistant", "content": content, "tool_calls": [call]}]
        answered = [{"role": "tool", "content": "3"}, {"role": "user", "content": "So?"}]
        with pytest.raises(DataError, match="a message of 'problem' holds tool_calls, which would be lost"):
            load(write({"problem": [*asked, *answered], "answer": "3"}))
