"""Calls in the text of a turn."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maspo_dist.environments.calls import BadCall, Call, read_calls

NAMES = ("add", "calc", "search")


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("The answer is 4.", ()),
        (
            'So <tool_call>{"name": "add", "arguments": {"a": 1, "b": [2]}}</tool_call>',
            (Call(name="add", named={"a": 1, "b": [2]}),),
        ),
        ('<tool_call>\n{"name": "add"}\n</tool_call>', (Call(name="add"),)),
        (
            '<tool_call>{"name": "calc", "arguments": {"code": "a\nb"}}</tool_call> and '
            '<tool_call>{"name": "add", "arguments": {}}</tool_call>',
            (Call(name="calc", named={"code": "a\nb"}), Call(name="add")),
        ),
        ("<tool_call>[1]</tool_call>", (BadCall(reason='a call is not of the form {"name": …, "arguments": {…}}'),)),
        (
            '<tool_call>{"name": "add", "arguments": 3}</tool_call>',
            (BadCall(reason="the arguments of add are not an object such as {…}"),),
        ),
        (
            '<tool_call>{"name": "subtract", "arguments": {}}</tool_call>',
            (BadCall(reason="there is no tool 'subtract'; the tools are add, calc, search"),),
        ),
        ('<tool_call>{"name": "add"', (BadCall(reason="a call has no </tool_call>"),)),
    ],
)
def test_calls_between_tags(text: str, calls: tuple[Call | BadCall, ...]) -> None:
    assert read_calls(text, "tags", NAMES) == calls


def test_a_call_that_is_not_json_says_why() -> None:
    (call,) = read_calls("<tool_call>{'name': 'add'}</tool_call>", "tags", NAMES)
    assert isinstance(call, BadCall)
    assert call.reason.startswith("a call is not JSON: ")


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("add(1, b=-2.5)", (Call(name="add", positional=(1,), named={"b": -2.5}),)),
        (
            "Let me see.\n  add([1, 'x'], None)  \nThen:\nadd()",
            (Call(name="add", positional=([1, "x"], None)), Call(name="add")),
        ),
        ("calc(583+749)", (Call(name="calc", positional=("583+749",)),)),
        ("calc(007+1)", (Call(name="calc", positional=("007+1",)),)),
        ("search(what's new)", (Call(name="search", positional=("what's new",)),)),
        ("search(cats, limit=many)", (Call(name="search", positional=("cats",), named={"limit": "many"}),)),
        ("calc('''\nx = f(1)\nprint(x)\n''')\ndone", (Call(name="calc", positional=("\nx = f(1)\nprint(x)\n",)),)),
        ("add(*numbers)", (Call(name="add", positional=("*numbers",)),)),
        ("I call add(1, 2) now.", ()),
        ("f(1)", ()),
        ("add(1", ()),
        ("add(1) + 2", ()),
        ("addition(1)", ()),
    ],
)
def test_calls_on_their_own_lines(text: str, calls: tuple[Call, ...]) -> None:
    assert read_calls(text, "calls", NAMES) == calls


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NAMED = st.dictionaries(st.from_regex(r"[a-z_]{1,6}", fullmatch=True).map(lambda name: f"{name}_"), VALUES, max_size=3)
PROSE = st.text("abc <>{}\n'\"", max_size=20)


@given(name=st.sampled_from(NAMES), named=NAMED, before=PROSE, after=PROSE)
def test_a_call_between_tags_is_read_as_it_was_written(name: str, named: dict, before: str, after: str) -> None:  # type: ignore[type-arg]
    call = json.dumps({"name": name, "arguments": named})
    text = f"{before}<tool_call>{call.replace('</', '<' + chr(92) + '/')}</tool_call>{after}"
    assert read_calls(text, "tags", NAMES) == (Call(name=name, named=named),)


@given(name=st.sampled_from(NAMES), positional=st.lists(VALUES, max_size=3), named=NAMED)
def test_a_call_on_its_own_line_is_read_as_it_was_written(name: str, positional: list, named: dict) -> None:  # type: ignore[type-arg]
    arguments = ", ".join([*map(repr, positional), *(f"{key}={value!r}" for key, value in named.items())])
    text = f"First.\n{name}({arguments})\nThen."
    assert read_calls(text, "calls", NAMES) == (Call(name=name, positional=tuple(positional), named=named),)


PIECES = st.sampled_from([*"ad(1,'\"=[]{}\\\n)* ", "add(", "<tool_call>", "</tool_call>", "\x00"])


@given(text=st.lists(PIECES).map("".join))
@pytest.mark.parametrize("call_format", ["tags", "calls"])
def test_no_text_makes_the_parser_fail(call_format: str, text: str) -> None:
    for call in read_calls(text, "tags" if call_format == "tags" else "calls", NAMES):
        assert isinstance(call, BadCall) or call.name in NAMES


@pytest.mark.parametrize(
    "bait", ["add(" * 20_000, "add(1)\n" * 5_000, "<tool_call>" * 50_000, "add((((\n" * 2_000 + ")"]
)
def test_long_bait_takes_no_long_time(bait: str) -> None:
    for call_format in ("tags", "calls"):
        read_calls(bait, "tags" if call_format == "tags" else "calls", NAMES)
