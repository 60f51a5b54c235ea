"""Tests of programs as public data sets hold them: read for what they are, or refused in one sentence."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maspo_dist.reward.code.references import ProgramTests, parse_tests
from maspo_dist.reward.code.verifier import CodeVerifier

TWO = (("1 2\n", ("3\n",)), ("5 6\n", ("11\n",)))
LIST = [{"input": "1 2\n", "output": "3\n"}, {"input": "5 6\n", "output": "11\n"}]
PACKED = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(LIST)))).decode()


def call(*args: object, accepted: list[Any], **kwargs: object) -> dict[str, Any]:
    return {"args": list(args), "kwargs": kwargs, "accepted": accepted}


@pytest.mark.parametrize(
    "data",
    [
        {"inputs": ["1 2\n", "5 6\n"], "outputs": ["3\n", "11\n"]},
        {"inputs": ["1 2\n", "5 6\n"], "outputs": ["3\n", "11\n"], "fn_name": None, "difficulty": "easy"},
        {"cases": [{"stdin": "1 2\n", "stdout": "3\n"}, {"stdin": "5 6\n", "stdout": "11\n"}]},
        LIST,
        [{**case, "testtype": "stdin"} for case in LIST],
        {"language": "python", "test_cases": [{"type": "stdin_stdout", **case} for case in LIST]},
        {"public_test_cases": json.dumps(LIST[:1]), "private_test_cases": json.dumps(LIST[1:])},
        {"public_test_cases": "[]", "private_test_cases": PACKED},
        {
            "public_tests": {"input": ["1 2\n"], "output": ["3\n"]},
            "private_tests": {"input": ["5 6\n"], "output": ["11\n"]},
        },
        {"input_output": json.dumps({"inputs": ["1 2\n", "5 6\n"], "outputs": ["3\n", "11\n"]})},
        json.dumps({"inputs": ["1 2\n", "5 6\n"], "outputs": ["3\n", "11\n"]}),
    ],
)  # fmt: skip
def test_standard_input_and_output(data: object) -> None:
    assert parse_tests(json.dumps(data)) == ProgramTests(cases=TWO)
    # As pandas and `str` write it.
    assert parse_tests(repr(data) if isinstance(data, dict) else json.dumps(data)) == ProgramTests(cases=TWO)


def test_texts_may_come_as_lists_of_lines_and_several_answers_may_be_right() -> None:
    data = {"inputs": [["1 2", "3"], None, 7], "outputs": [["a", "b"], "", 8]}
    assert parse_tests(json.dumps(data)).cases == (("1 2\n3", ("a\nb",)), ("", ("",)), ("7", ("8",)))
    assert parse_tests('[{"input": "6", "outputs": ["2 3", "3 2"]}]').cases == (("6", ("2 3", "3 2")),)


@pytest.mark.parametrize(
    ("data", "calls"),
    [
        ({"inputs": [[1, 2], [3, 4]], "outputs": [3, 7]}, [call(1, 2, accepted=[3]), call(3, 4, accepted=[7])]),
        # APPS puts each result into a list, which may also be the result.
        ({"inputs": [[1, 2]], "outputs": [[3]]}, [call(1, 2, accepted=[[3], 3])]),
        ({"inputs": [[[1]], [[]]], "outputs": [[1], []]}, [call([1], accepted=[[1]]), call([], accepted=[[]])]),
        ({"inputs": ["1\n2"], "outputs": ["3"]}, [call(1, 2, accepted=[3])]),
        ({"inputs": ['"a"\n[1, null]'], "outputs": ['"b"']}, [call("a", [1, None], accepted=["b"])]),
        ({"inputs": ["xs = [3, 3], n = 6"], "outputs": ["[0, 1]"]}, [call(xs=[3, 3], n=6, accepted=[[0, 1]])]),
        ({"inputs": ["'a', True"], "outputs": ["None"]}, [call("a", True, accepted=[None])]),
        ({"inputs": [{"a": 1, "b": 2}], "outputs": [3]}, [call(a=1, b=2, accepted=[3])]),
        ({"inputs": [5], "outputs": ["five"]}, [call(5, accepted=["five"])]),
        ({"tests": [{"input": "1\n2", "output": "3", "testtype": "functional"}]}, [call(1, 2, accepted=[3])]),
        ({"test_cases": [{"type": "function_call", "input": [1, 2], "output": 3}]}, [call(1, 2, accepted=[3])]),
    ],
)  # fmt: skip
def test_calls_by_name(data: dict[str, Any], calls: list[dict[str, Any]]) -> None:
    for key in ("fn_name", "func_name"):
        assert parse_tests(json.dumps({key: "add", **data})) == ProgramTests(function="add", calls=tuple(calls))
    for metadata in ({"func_name": "add"}, '{"func_name": "add"}'):
        assert parse_tests(json.dumps({"metadata": metadata, **data})).function == "add"
    assert parse_tests(json.dumps({"entry_point": "Solution().add", **data})).function == "add"


def test_a_list_of_functional_tests_names_its_function_in_each_test() -> None:
    case = {"input": "1\n2", "output": "3", "testtype": "functional", "metadata": {"func_name": "add"}}

    assert parse_tests(json.dumps([case])) == ProgramTests(function="add", calls=(call(1, 2, accepted=[3]),))


@pytest.mark.parametrize(
    ("reference", "source"),
    [
        ('["assert f() == 1", "assert g()"]', "assert f() == 1\nassert g()"),
        ("assert f() == 1", "assert f() == 1"),
        ('{"asserts": ["assert f() == 1"]}', "assert f() == 1"),
        (
            '{"test_list": ["assert f()"], "test_imports": ["import math"], "challenge_test_list": ["assert g()"]}',
            "import math\nassert f()",
        ),
        ('{"test_list": ["assert f()"], "test_setup_code": "x = 1"}', "x = 1\nassert f()"),
        ('{"test": "def check(f): assert f()", "entry_point": "g"}', "def check(f): assert f()\ncheck(g)"),
        ('{"test": "def test_g():\\n  assert g()", "entry_point": "g"}', "def test_g():\n  assert g()"),
        ("from solution import f\ndef test_f():\n  assert f()", "from solution import f\ndef test_f():\n  assert f()"),
    ],
)
def test_tests_in_python(reference: str, source: str) -> None:
    assert parse_tests(reference) == ProgramTests(source=source)


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("", "no tests: the keys are tests"),
        ("12", "no tests of a program: '12'; write JSON with"),
        ("null", "no tests of a program: 'null'"),
        ("{}", "no tests: "),
        ("[]", "no tests: "),
        ("[1]", "a value that is no test: 1 in tests"),
        ('["1 2", "3"]', "neither JSON with tests nor Python: '1 2"),
        ("print('the word assert')", "asserts nothing"),
        ('{"test": "def check(f): assert f()"}', "only defines functions: .*; name the one to test as entry_point"),
        ("'''A docstring.'''\nx = 1\ndef check(f):\n  assert f()", "name the one to test as entry_point"),
        ('{"inputs": ["1"], "outputs": []}', "inputs and outputs that are not lists of one length"),
        ('{"inputs": ["1"]}', "a test without output: its keys are inputs"),
        ('[{"output": "1"}]', "a test without input"),
        ('[{"input": "1", "output": "1", "testtype": "interactive"}]', "unknown type: 'interactive'; known are stdin"),
        ('[{"input": "1", "output": "1", "testtype": "functional"}]', "a test that calls a function without fn_name"),
        ('{"fn_name": "f", "inputs": ["1 2 3"], "outputs": ["1"]}', "nor values of Python: '1 2 3'"),
        ('{"language": "cpp", "inputs": ["1"], "outputs": ["1"]}', "another language than Python: 'cpp'"),
        ('{"inputs": [{"a": 1}], "outputs": ["1"]}', "neither a text nor a list of lines"),
        ('{"inputs": ["1"], "outputs": ["1"], "asserts": ["assert f()"]}', "in one reference"),
        ('{"fn_name": "f g", "inputs": ["1"], "outputs": ["1"]}', "a function whose name is no name: 'f g'"),
        ('{"fn_name": "f", "inputs": ["1)(2"], "outputs": ["1"]}', "neither JSON, one per line"),
        ('[{"input": "1", "outputs": []}]', "without any right output"),
        ('{"tests":' * 900 + "1" + "}" * 900, "nested too deeply|is no test"),
        ("[" * 100_000, "neither JSON with tests nor Python"),
        ("{'a': __import__('os')}", "neither JSON|asserts nothing"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_in_one_sentence(reference: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as refused:
        parse_tests(reference)

    assert "\n" not in str(refused.value)
    # `check` counts by kind, whatever the value.
    assert str(refused.value).startswith(CodeVerifier.check_reference(reference) or "nothing")
    assert CodeVerifier.check_reference("assert f()") == ""


KEYS = (
    "inputs",
    "outputs",
    "input",
    "output",
    "fn_name",
    "tests",
    "test",
    "testtype",
    "metadata",
    "language",
    "asserts",
)
TEXTS = (
    "",
    "1 2",
    "f(",
    "[1",
    '{"inputs": []}',
    "assert f() == 1",
    "functional",
    "stdin",
    "python",
    "eJ",
    "{[1]}",
    "\ud800",
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(TEXTS) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
)


@settings(max_examples=500, deadline=None)
@given(VALUES)
def test_whatever_a_reference_holds_it_is_read_or_refused(data: object) -> None:
    CodeVerifier.check_reference(data if isinstance(data, str) else json.dumps(data))


def test_a_pickle_in_a_reference_calls_nothing() -> None:
    hostile = base64.b64encode(zlib.compress(pickle.dumps(print))).decode()

    with pytest.raises(ValueError):
        parse_tests(json.dumps({"private_test_cases": hostile}))
