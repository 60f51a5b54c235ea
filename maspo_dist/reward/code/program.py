"""Where the program stands in a response.

1. The last closed or open block that is tagged as Python; but a session of the interpreter, or a block of values and
   comments, only shows how the program before it is used.
2. Else the last block without a tag that is Python and more than values: sample output is often in such a block.
3. Else the last block without a tag.
4. Without any block, what stands in `<answer>`, or the whole text, when it is a program.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Mapping

from maspo_dist.config.reasoning import REASONING_TAGS
from maspo_dist.reward.math.answers import ANSWER_TAG, visible_text

_TAG = re.compile(r"\s*\{?\.?([\w+#-]*)")
_QUOTE = re.compile(r"\s*>\s?")
#: Columns by which a closing fence may stand deeper than its opening fence.
_MOST_INDENT = 3
_PYTHON = re.compile(r"(?:python|py|pypy)[\d.]*", re.IGNORECASE)


def read_program(response: str, reasoning_tags: Mapping[str, str] = REASONING_TAGS) -> str | None:
    """The program of a response outside reasoning blocks, by the rules above; None where there is none."""
    text = visible_text(response, reasoning_tags)
    blocks = _blocks(text)
    if tagged := [block for tag, block in blocks if _PYTHON.fullmatch(tag)]:
        program = next((block for block in reversed(tagged) if not _is_sample(block)), tagged[-1])
        return program if program.strip() else None
    untagged = [block for tag, block in blocks if not tag and block.strip()]
    if untagged:
        return next((block for block in reversed(untagged) if _is_program(block)), untagged[-1])
    if blocks:
        return None
    answers = ANSWER_TAG.findall(text)
    text = answers[-1] if answers else text
    return text if _is_program(text) else None


def _blocks(text: str) -> list[tuple[str, str]]:
    """The tag and the content of each fenced block, in order. Takes linear time: the pool's own threads call this."""
    blocks: list[tuple[str, str]] = []
    fence, tag, indent, lines = "", "", 0, list[str]()
    quote: re.Match[str] | None = None
    for line in text.split("\n"):
        line = line.rstrip()
        if fence:
            line = _QUOTE.sub("", line, 1) if quote else line
            body = line.rstrip(fence[0])
            # A fence that stands deeper than Markdown allows belongs to a text of the program.
            is_deeper = not body.strip() and _indent(line) > indent + _MOST_INDENT
            if len(line) - len(body) >= len(fence) and fence[0] not in body and not is_deeper:
                blocks.append((tag, _dedented([*lines, body])))
                fence = ""
            else:
                lines.append(line)
        elif sign := next((sign for sign in "`~" if sign * 3 in line), ""):
            before, _, rest = line.rpartition(sign * 3)
            matched = _TAG.match(rest)
            tag, lines = matched[1] if matched else "", []
            quote = _QUOTE.match(before)
            indent = _indent(_QUOTE.sub("", line, 1))
            if tag or not before.strip(sign + " \t>"):
                fence = sign * (len(before) - len(before.rstrip(sign)) + 3)
    return [*blocks, (tag, _dedented(lines))] if fence else blocks


def _indent(line: str) -> int:
    line = line.expandtabs(4)
    return len(line) - len(line.lstrip())


def _dedented(lines: list[str]) -> str:
    return textwrap.dedent("\n".join(lines))


def _is_sample(text: str) -> bool:
    """Whether a block of Python shows a use of a program: `>>> f(1)`, or nothing but values and comments."""
    if text.lstrip().startswith(">>> "):
        return True
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) for line in tree.body)


def _is_program(text: str) -> bool:
    """Whether `text` is Python with at least a statement that does more than state a value."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(not isinstance(line, ast.Expr) or isinstance(line.value, ast.Call) for line in tree.body)
