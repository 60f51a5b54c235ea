"""A table that goes into a file or a pipe loses no cell."""

from __future__ import annotations

import pytest
from rich.table import Table

from maspo_dist.views.screen import open_screen


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    table = Table(*(f"column {number} of a wide table" for number in range(6)))
    table.add_row(*(f"cell {number} with a long text" for number in range(6)))
    open_screen().print(table)
    return capsys.readouterr().out


def test_a_wide_table_is_whole_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    text = printed(capsys)
    assert "column 5 of a wide table" in text
    assert "cell 0 with a long text" in text


def test_columns_decides_where_a_user_has_set_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, printed(capsys).splitlines())) <= 60
