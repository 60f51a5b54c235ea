"""Files that a reader finds whole, old or new, whenever it looks."""

from __future__ import annotations

from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Writes `text` (UTF-8) beside `path` and puts it there in one rename."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
