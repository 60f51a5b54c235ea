"""HTML pages from Jinja2 templates. Every value is escaped unless it is Markup."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from maspo_dist.views.format import format_change, format_score

TEMPLATES = Path(__file__).with_name("templates")

#: Control characters but tab and newline, and lone surrogates: a page cannot hold them.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def render_page(template: Path, values: Mapping[str, object]) -> str:
    """The page of `template`, which may extend and import what lies in `TEMPLATES`.

    Characters that a page cannot hold become a replacement mark.
    """
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M UTC}"
    return _UNPRINTABLE.sub("�", _environment(template.parent).get_template(template.name).render(values, made=made))


def shorten(text: object, head: int = 2400, tail: int = 1200) -> str:
    """The start and the end of a long text, and the number of characters left out between them."""
    text = str(text)
    missing = len(text) - head - tail
    return text if missing <= 0 else f"{text[:head]}\n… {missing:,} characters left out …\n{text[-tail:]}"


def direction(start: float | None, last: float | None) -> str:
    """CSS class of a change: up, down, or empty where the change rounds to 0.000."""
    change = 0.0 if start is None or last is None else round(last - start, 3)
    return "up" if change > 0 else "down" if change < 0 else ""


@cache
def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader((folder, TEMPLATES)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "change": format_change,
        "direction": direction,
        "score": format_score,
        "shorten": shorten,
    }
    return environment
