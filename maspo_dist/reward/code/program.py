"""Where the program stands in a response."""

from __future__ import annotations

import ast
import re

from maspo_dist.reward.math.answers import visible_text

_FENCE = re.compile(r"```[ \t]*(?:python3?|py)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)


def read_program(response: str) -> str | None:
    """The last fenced block, or the whole text when it is a program."""
    text = visible_text(response)
    blocks: list[str] = _FENCE.findall(text)
    if blocks:
        return blocks[-1] if blocks[-1].strip() else None
    if "\n" not in text.strip() and "(" not in text:
        return None
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return None
    return text
