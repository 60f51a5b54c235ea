"""Reasoning blocks: the tags around them, and whether a text ends inside a block."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, NamedTuple

from pydantic import AfterValidator

#: The closing tag of each opening tag, of the models in use. Letter case is ignored.
REASONING_TAGS: dict[str, str] = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<reasoning>": "</reasoning>",
    "<seed:think>": "</seed:think>",
    "[THINK]": "[/THINK]",
    "◁think▷": "◁/think▷",
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "<|channel|>analysis": "<|channel|>final",
}


def _tags_mark_blocks(value: dict[str, str]) -> dict[str, str]:
    for opening, closing in value.items():
        if not opening.strip() or not closing.strip() or opening == closing:
            raise ValueError(f"the tags {opening!r} and {closing!r} must be two different texts that are not blank")
    return value


#: The closing tag of each opening tag.
ReasoningTags = Annotated[dict[str, str], AfterValidator(_tags_mark_blocks)]


class ReasoningPatterns(NamedTuple):
    """Matches of any opening and of any closing tag."""

    opening: re.Pattern[str]
    closing: re.Pattern[str]


def reasoning_patterns(tags: Mapping[str, str]) -> ReasoningPatterns:
    """The patterns of `tags`, compiled once."""
    return _compiled(tuple(tags.items()))


@lru_cache(maxsize=16)
def _compiled(tags: tuple[tuple[str, str], ...]) -> ReasoningPatterns:
    # A pattern of no tags must match nothing.
    opening, closing = (
        "|".join(map(re.escape, side)) or r"(?!)" for side in (zip(*tags, strict=True) if tags else ("", ""))
    )
    return ReasoningPatterns(re.compile(opening, re.IGNORECASE), re.compile(closing, re.IGNORECASE))


def open_reasoning(text: str, tags: Mapping[str, str] = REASONING_TAGS) -> str:
    """The part of `text` from the reasoning tag that it leaves open; "" where it ends outside all blocks."""
    patterns = reasoning_patterns(tags)
    text = text[max((match.end() for match in patterns.closing.finditer(text)), default=0) :]
    opened = patterns.opening.search(text)
    return text[opened.start() :] if opened else ""


def outside_reasoning(text: str, tags: Mapping[str, str] = REASONING_TAGS) -> str:
    """`text` behind its last closing tag, up to an opening tag after that. A prompt may have opened the block."""
    patterns = reasoning_patterns(tags)
    text = text[max((match.end() for match in patterns.closing.finditer(text)), default=0) :]
    opened = patterns.opening.search(text)
    return text[: opened.start()] if opened else text


def final_reasoning_tag(prompt: str, tags: Mapping[str, str] = REASONING_TAGS) -> str:
    """The opening tag with which `prompt` ends, and white space after it; "" where it ends otherwise."""
    end = prompt.rstrip()
    tag = next((tag for tag in tags if end[-len(tag) :].casefold() == tag.casefold()), "")
    return prompt[len(end) - len(tag) :] if tag else ""
