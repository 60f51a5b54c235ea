"""Calls of tools in the text of a turn.

tags     <tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>, anywhere
calls    add(1, b=2), from the start of a line to the end of that or of a later line. An argument that is not a Python
         literal stands for its text: calc(583+749) passes "583+749".

In `calls`, only the name of a tool makes a call: other names are prose.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_TAGGED = re.compile(rf"{_OPEN}(.*?)({_CLOSE}|\Z)", re.DOTALL)
#: Lines over which a call may extend, and the characters of all of them.
_MOST_LINES, _MOST_CHARS = 200, 100_000
#: What Python's parser raises for text that is not Python, nests too deeply or holds a number that is too long.
_NOT_PYTHON = (SyntaxError, ValueError, RecursionError, MemoryError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that can be tried; the tool may still refuse its arguments."""

    name: str
    positional: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BadCall:
    """What was meant as a call; `reason` is one line for the model."""

    reason: str


def read_calls(text: str, call_format: Literal["tags", "calls"], names: Collection[str]) -> tuple[Call | BadCall, ...]:
    """The calls in `text`, in order. `names` are the tools. Never raises."""
    if call_format == "tags":
        return tuple(_tagged(body, closing, names) for body, closing in _TAGGED.findall(text))
    return tuple(_written(text, names))


def _tagged(body: str, closing: str, names: Collection[str]) -> Call | BadCall:
    if not closing:
        return BadCall(reason=f"a call has no {_CLOSE}")
    try:
        # Models write line breaks into texts as they are.
        call = json.loads(body, strict=False)
    except (ValueError, RecursionError) as error:
        return BadCall(reason=f"a call is not JSON: {error}")
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return BadCall(reason='a call is not of the form {"name": …, "arguments": {…}}')
    name, arguments = call["name"], call.get("arguments", {})
    if name not in names:
        return BadCall(reason=f"there is no tool {name[:60]!r}; the tools are {', '.join(names)}")
    if not isinstance(arguments, dict):
        return BadCall(reason=f"the arguments of {name} are not an object such as {{…}}")
    return Call(name=name, named=arguments)


def _written(text: str, names: Collection[str]) -> Iterator[Call]:
    opening = re.compile(rf"^[ \t]*({'|'.join(map(re.escape, names))})[ \t]*\(", re.MULTILINE)
    position = 0
    while found := opening.search(text, position):
        call, position = _call_at(text, found)
        if call is not None:
            yield call


def _call_at(text: str, found: re.Match[str]) -> tuple[Call | None, int]:
    """The call that begins at `found`, and where it ends; without a call, the end of its first line."""
    lines = text[found.start() : found.start() + _MOST_CHARS].split("\n")[:_MOST_LINES]
    end = 0
    for line in lines:
        end += len(line) + 1
        if line.rstrip().endswith(")"):
            source = text[found.start() : found.start() + end].strip()
            if (call := _parsed(source)) is not None:
                return call, found.start() + end
    first = lines[0].strip()
    whole = Call(name=found[1], positional=(first[first.index("(") + 1 : -1],)) if first.endswith(")") else None
    return whole, found.start() + len(lines[0]) + 1


def _parsed(source: str) -> Call | None:
    """The call that `source` is as a Python expression; None where it is not a plain call."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call = ast.parse(source, mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            return None
        named = {part.arg: _value(part.value, source) for part in call.keywords if part.arg is not None}
        is_plain = len(named) == len(call.keywords) and not any(isinstance(part, ast.Starred) for part in call.args)
        positional = tuple(_value(part, source) for part in call.args)
    except _NOT_PYTHON:
        return None
    return Call(name=call.func.id, positional=positional, named=named) if is_plain else None


def _value(part: ast.expr, source: str) -> Any:
    try:
        return ast.literal_eval(part)
    except (ValueError, TypeError):
        return ast.get_source_segment(source, part)
