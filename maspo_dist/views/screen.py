"""Where a command prints its tables."""

from __future__ import annotations

import os

from rich.console import Console

#: Of a file or a pipe: no table is wider, so that no cell is cut.
_ELSEWHERE_COLUMNS = 200


def open_screen() -> Console:
    """Standard output, as wide as the terminal or as COLUMNS says; elsewhere 200 columns."""
    console = Console(soft_wrap=True)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _ELSEWHERE_COLUMNS
    return console
