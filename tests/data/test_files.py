"""Data files of every kind are read by their first bytes, or refused by the name of their kind."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from maspo_dist.config import PromptConfig
from maspo_dist.data.rows import Row, read_rows
from maspo_dist.errors import DataError

ROWS = [{"problem": "1+2", "answer": "3"}, {"problem": "α", "answer": "5"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
TABLE = pyarrow.Table.from_pylist(ROWS)


def read(path: Path, **settings: str) -> list[Row]:
    return list(read_rows(str(path), PromptConfig(**settings)))


def arrow(path: Path, new: Callable[..., pyarrow.RecordBatchStreamWriter]) -> None:
    with new(str(path), TABLE.schema) as writer:
        writer.write_table(TABLE)


def compressed(path: Path, codec: str) -> None:
    with pyarrow.CompressedOutputStream(str(path), codec) as stream:
        stream.write(LINES.encode())


KINDS: dict[str, Callable[[Path], object]] = {
    "rows.jsonl": lambda path: path.write_text(LINES),
    "ROWS.JSONL": lambda path: path.write_text(LINES),
    "rows.json": lambda path: path.write_text(LINES),
    "rows": lambda path: path.write_text(LINES),
    "rows.array.json": lambda path: path.write_text(json.dumps(ROWS)),
    "rows.pretty.json": lambda path: path.write_text("\n" + json.dumps(ROWS, indent=1)),
    "rows.objects.json": lambda path: path.write_text("\n".join(json.dumps(row, indent=1) for row in ROWS)),
    "rows.lists.json": lambda path: path.write_text("\n".join(json.dumps([row]) for row in ROWS)),
    "rows.wrapped.json": lambda path: path.write_text(json.dumps({"version": 2, "data": ROWS})),
    "rows.indented.json": lambda path: path.write_text(json.dumps({"data": ROWS}, indent=2)),
    "rows.commas.jsonl": lambda path: path.write_text(LINES.replace("}\n", "},\n")),
    "rows.bom.jsonl": lambda path: path.write_text(LINES, encoding="utf-8-sig"),
    "rows.utf16.jsonl": lambda path: path.write_text(LINES, encoding="utf-16"),
    "rows.utf16le.jsonl": lambda path: path.write_text(LINES, encoding="utf-16-le"),
    "rows.utf32.jsonl": lambda path: path.write_text(LINES, encoding="utf-32"),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES.encode())),
    "rows.two.members.gz": lambda path: path.write_bytes(
        b"".join(gzip.compress(x.encode()) for x in LINES.splitlines(True))
    ),
    "rows.jsonl.bz2": lambda path: path.write_bytes(bz2.compress(LINES.encode())),
    "rows.jsonl.xz": lambda path: path.write_bytes(lzma.compress(LINES.encode())),
    "rows.jsonl.zst": lambda path: compressed(path, "zstd"),
    "rows.jsonl.lz4": lambda path: compressed(path, "lz4"),
    "ROWS.PARQUET": lambda path: pyarrow.parquet.write_table(TABLE, path),
    "rows.pq": lambda path: pyarrow.parquet.write_table(TABLE, path),
    "named_wrongly.jsonl": lambda path: pyarrow.parquet.write_table(TABLE, path),
    "rows.parquet.gz": lambda path: (
        pyarrow.parquet.write_table(TABLE, path),
        path.write_bytes(gzip.compress(path.read_bytes())),
    ),
    "rows.stream.arrow": lambda path: arrow(path, pyarrow.ipc.new_stream),
    "rows.file.arrow": lambda path: arrow(path, pyarrow.ipc.new_file),
    "rows.csv": lambda path: path.write_text("problem,answer\n1+2,3\nα,5\n"),
    "rows.txt": lambda path: path.write_text('\ufeffanswer; problem\r\n3; "1+2"\r\n5; α\r\n', newline=""),
    "ROWS.TSV": lambda path: path.write_text("id\tproblem\tanswer\n\t1+2\t3\n\tα\t5\n"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_read_whatever_its_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    KINDS[name](path)
    assert [(row.problem, row.answer) for row in read(path)] == [("1+2", "3"), ("α", "5")]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"PK\x03\x04 rest", "is a zip archive or an Excel file: unpack it"),
        (b"\x89HDF\r\n", "is an HDF5 file: write it as Parquet"),
        (b"PARE rest", "is an encrypted Parquet file: decrypt it"),
        (b"SQLite format 3\x00", "is an SQLite database: export its table as CSV"),
        (b"problem,answer\n1,2\r3,4\n", r"not CSV \(new-line character seen in unquoted field"),
        (pickle.dumps(ROWS), "is a Python pickle: write its rows as JSON Lines or Parquet"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, not the data"),
        (b"x" * 257 + b"ustar\x00", "is a tar archive: unpack it"),
        (gzip.compress(b"PK\x03\x04 rest"), "is a zip archive"),
        (
            b"<!DOCTYPE html>\n<html>",
            "the first line is neither JSON nor a CSV header with problem or answer: '<!DOCTYPE",
        ),
        (gzip.compress(LINES.encode())[:-9], "cannot be read: Compressed file ended before the end-of-stream marker"),
        (b"PAR1 cut", "cannot be read: Parquet magic bytes not found in footer"),
        (b"\xff\xff\xff\xff\x10", "cannot be read"),
        ('{"problem": "né", "answer": "1"}'.encode("latin-1"), "not UTF-8"),
        (b'[{"problem": "1", "answer": "1"},', "the list of the file has no end; is the file cut off?"),
        (b'[\n{"problem": "1", "answer": "1"},\n{"problem" "2"}]', r"line 3: not JSON at column 12 \(Expecting ':'"),
        (
            b'[{"problem": "1", "answer": "1"}]\n{"problem": "2", "answer": "2"}',
            "line 2: text follows the end of the list: write one object per line",
        ),
        (b'["1+2"]', "row 1: text instead of an object with fields"),
        (b"[", "the list of the file has no end"),
        (b"problem,answer\n1,2,3\n", "line 2: the row has not as many cells as the header, which has 2"),
        (b"problem,answer\n1\n", "line 2: the row has not as many cells as the header"),
        (b"problem,solution\n1,2\n", "line 2: no field 'answer'; the row has problem, solution"),
        (b"", "holds no rows"),
    ],
)
def test_other_files_are_named_for_what_they_are(content: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=sentence) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_zip_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("rows.jsonl", LINES)
    with pytest.raises(DataError, match="zip archive"):
        read(path)


def test_dictionary_nested_and_bytes_columns_are_read_and_others_left_out(tmp_path: Path) -> None:
    path = tmp_path / "verl.parquet"
    table = pyarrow.table(
        {
            "data_source": pyarrow.array(["sums", "sums"]).dictionary_encode(),
            "prompt": [[{"role": "user", "content": "1+2"}], [{"role": "user", "content": "2+2"}]],
            "reward_model": [{"style": "rule", "ground_truth": "3"}, {"style": "rule", "ground_truth": "4"}],
            "image": [b"\xff\xfe", b"\xff"],
        }
    )
    pyarrow.parquet.write_table(table, path)
    names = {"problem_field": "prompt", "answer_field": "reward_model.ground_truth", "source_field": "data_source"}
    assert [(row.problem, row.answer, row.source) for row in read(path, **names)] == [
        ((("user", "1+2"),), "3", "sums"),
        ((("user", "2+2"),), "4", "sums"),
    ]
    with pytest.raises(DataError, match=r"the row has data_source, prompt, reward_model\.style, reward_model\.gr"):
        read(path)
    pyarrow.parquet.write_table(pyarrow.table({"problem": [b"1+2"], "answer": [b"\xff"]}), path)
    with pytest.raises(DataError, match="'answer' is bytes that are not UTF-8 text"):
        read(path)


def test_the_name_of_a_data_set_has_no_suffixes(tmp_path: Path) -> None:
    path = tmp_path / "aime.2024.JSONL.gz"
    path.write_bytes(gzip.compress(LINES.encode()))
    assert {row.source for row in read(path)} == {"aime.2024"}
    (tmp_path / "sums.txt").write_text(LINES)
    assert read(tmp_path / "sums.txt")[0].row_id == "sums-1"


def test_cells_may_hold_line_ends_and_lines_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('\nproblem,answer\n"1+2\nin words",3\n2+2,\n')
    rows = read_rows(str(path), PromptConfig())
    assert next(rows).problem == "1+2\nin words"
    with pytest.raises(DataError, match="line 5: field 'answer' is empty"):
        next(rows)
