"""Text from outside, made safe to stand in a page."""

from __future__ import annotations

import html
import unicodedata

_REPLACEMENT = "�"


def escape(text: object) -> str:
    """`text` for element content and quoted attributes.

    Control characters and lone surrogates, which a page cannot hold, become a replacement mark.
    """
    printable = "".join(
        _REPLACEMENT if unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t" else char
        for char in str(text)
    )
    return html.escape(printable, quote=True)


def shorten(text: str, head: int = 2400, tail: int = 1200) -> str:
    """The start and end of a long text, and how much is missing between them."""
    missing = len(text) - head - tail
    if missing <= 0:
        return text
    return f"{text[:head]}\n… {missing:,} characters left out …\n{text[-tail:]}"
