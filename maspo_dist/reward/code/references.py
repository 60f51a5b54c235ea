"""The tests of a program, read from a reference: JSON or Python, in the shapes of public data sets.

    {"inputs": ["1 2\\n"], "outputs": ["3\\n"]}                     standard input and output: APPS, TACO
    [{"input": "1 2\\n", "output": "3\\n", "testtype": "stdin"}]    the same: LiveCodeBench; also as `test_cases`
    {"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]}         calls, with arguments as values
    {"fn_name": "add", "inputs": ["1\\n2"], "outputs": ["3"]}       calls, with one argument in JSON per line
    ["assert add(1, 2) == 3"]                                      Python: MBPP; also as `test_list`, `asserts`
    {"test": "def check(f): …", "entry_point": "add"}              Python: HumanEval
    from solution import add\\ndef test_add(): …                   Python: KodCode

A case may hold `outputs` in place of `output`: a list of answers, each of them right.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import pickle
import zlib
from dataclasses import dataclass
from typing import Any

#: Keys under which data sets keep tests: cases, Python, or another object with tests.
_TESTS = (
    *("asserts", "test", "tests", "test_code", "test_list", "unit_tests", "cases", "test_cases", "official_tests"),
    *("public_test_cases", "private_test_cases", "public_tests", "private_tests", "generated_tests"),
    *("input_output", "verification_info", "ground_truth"),
)
_SETUP = ("test_imports", "test_setup_code")
_FUNCTION = ("fn_name", "func_name", "function_name")
_INPUT = ("input", "stdin", "inputs")
_OUTPUT = ("output", "stdout", "expected_output", "expected")
_IS_CALL = {"stdin": False, "stdin_stdout": False, "functional": True, "function_call": True, "call_based": True}
#: Statements that run no test by themselves.
_PASSIVE = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
#: What reading a text as Python may raise.
_NOT_PYTHON = (SyntaxError, ValueError, TypeError, RecursionError, MemoryError)
_SHAPES = "write JSON with inputs and outputs, a list of cases with input and output, asserts, or a test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One test: standard input, or the arguments of a call of `function`, and the answers that are right."""

    function: str
    given: Any
    accepted: list[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramTests:
    """The tests of a program: pairs (stdin, accepted outputs), or source in Python, or calls of `function`.

    A call has `args`, `kwargs` and `accepted` results.
    """

    cases: tuple[tuple[str, tuple[str, ...]], ...] = ()
    source: str = ""
    function: str = ""
    calls: tuple[dict[str, Any], ...] = ()


def parse_tests(reference: str) -> ProgramTests:
    """Reads a reference. Raises ValueError that says in one sentence what cannot be read: the kind, then the value."""
    try:
        return _parse(reference)
    except RecursionError:
        raise ValueError("tests that are nested too deeply") from None


def _parse(reference: str) -> ProgramTests:
    data = _decoded(reference)
    if isinstance(data, (str, list)):
        data = {"tests": data}
    if not isinstance(data, dict):
        raise ValueError(f"no tests of a program: {reference[:40]!r}; {_SHAPES}")
    cases, lines = _tests_in(data, "", in_list=False)
    if cases and lines:
        raise ValueError("cases and Python in one reference")
    if lines:
        setup = [line for key in _SETUP for line in _lines(data.get(key))]
        source = "\n".join([*setup, *lines]).strip()
        if "entry_point" in data and "def check(" in source:
            source += f"\ncheck({data['entry_point']})"
        return ProgramTests(source=_python(source))
    functions = {case.function for case in cases}
    if not functions:
        raise ValueError(f"no tests: the keys are {', '.join(data)}; {_SHAPES}")
    if len(functions) > 1:
        raise ValueError(f"tests of several functions: {', '.join(map(repr, sorted(functions)))}")
    if function := functions.pop():
        return ProgramTests(function=function, calls=_calls(cases))
    return ProgramTests(cases=tuple((_text(case.given), tuple(map(_text, case.accepted))) for case in cases))


def _tests_in(data: dict[str, Any], function: str, *, in_list: bool) -> tuple[list[Case], list[str]]:
    """The cases and the lines of Python in an object, at any depth. Calls that name no function call `function`."""
    language = str(data.get("language", "python"))
    if language.lower() not in ("python", "python3", "py"):
        raise ValueError(f"another language than Python: {language!r:.40}")
    function = _function(data) or function
    cases, lines = _own_cases(data, function, in_list=in_list), list[str]()
    for key in _TESTS:
        value = _decoded(data[key]) if isinstance(data.get(key), str) else data.get(key)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                inner_cases, inner_lines = _tests_in(item, function, in_list=isinstance(value, list))
                cases += inner_cases
                lines += inner_lines
            elif isinstance(item, str):
                lines += [item] * bool(item.strip())
            elif item is not None:
                raise ValueError(f"a value that is no test: {item!r:.40} in {key}; {_SHAPES}")
    return cases, lines


def _own_cases(data: dict[str, Any], function: str, *, in_list: bool) -> list[Case]:
    """The cases at the top of an object: one case, or lists of inputs and outputs."""
    given = next((key for key in _INPUT if key in data), "")
    wanted = next((key for key in (*_OUTPUT, "outputs") if key in data), "")
    if not given and not wanted:
        return []
    if not given or not wanted:
        raise ValueError(f"a test without {'output' if given else 'input'}: its keys are {', '.join(data)}")
    kind = str(data.get("testtype", data.get("type", "functional" if function else "stdin")))
    if kind not in _IS_CALL:
        raise ValueError(f"a test of unknown type: {kind!r:.40}; known are {', '.join(_IS_CALL)}")
    if _IS_CALL[kind] and not function:
        raise ValueError(f"a test that calls a function without fn_name: its type is {kind!r}")
    function = function if _IS_CALL[kind] else ""
    inputs, outputs = data[given], data[wanted]
    are_lists = isinstance(inputs, list) and isinstance(outputs, list)
    if given == "inputs" or (are_lists and not in_list and "type" not in data and "testtype" not in data):
        if not are_lists or len(inputs) != len(outputs):
            raise ValueError(f"inputs and outputs that are not lists of one length: {given}, {wanted}")
        return [Case(function=function, given=i, accepted=[o]) for i, o in zip(inputs, outputs, strict=True)]
    accepted = outputs if wanted == "outputs" and isinstance(outputs, list) else [outputs]
    if not accepted:
        raise ValueError("a test without any right output: outputs is empty")
    return [Case(function=function, given=inputs, accepted=accepted)]


def _function(data: dict[str, Any]) -> str:
    metadata = _decoded(data["metadata"]) if isinstance(data.get("metadata"), str) else data.get("metadata")
    keys = _FUNCTION if "test" in data else (*_FUNCTION, "entry_point")
    found = [place.get(key) for place in (data, metadata) if isinstance(place, dict) for key in keys]
    function = next((str(name).rpartition(".")[2] for name in found if name), "")
    if function and not function.isidentifier():
        raise ValueError(f"a function whose name is no name: {function!r:.40}")
    return function


def _calls(cases: list[Case]) -> tuple[dict[str, Any], ...]:
    # APPS puts each result into a list.
    are_wrapped = all(
        isinstance(result, list) and len(result) == 1 and not isinstance(case.given, str)
        for case in cases
        for result in case.accepted
    )
    calls = []
    for case in cases:
        args, kwargs = _arguments(case.given)
        accepted = []
        for value in case.accepted:
            result = _result(value) if isinstance(value, str) else value
            as_it_is = [value] if result != value and not isinstance(case.given, str) else []
            accepted += [result, *as_it_is, *(value if are_wrapped else [])]
        calls.append({"args": args, "kwargs": kwargs, "accepted": accepted})
    return tuple(calls)


def _arguments(given: object) -> tuple[list[Any], dict[str, Any]]:
    if isinstance(given, str):
        return _parsed(given)
    if isinstance(given, dict):
        return [], given
    return (given if isinstance(given, list) else [given]), {}


def _parsed(text: str) -> tuple[list[Any], dict[str, Any]]:
    """Arguments in a text: one JSON value per line, or as Python writes them in a call."""
    lines = [line for line in text.split("\n") if line.strip()]
    with contextlib.suppress(ValueError, RecursionError):
        return [json.loads(line) for line in lines], {}
    try:
        call = ast.parse(f"f({','.join(lines)})", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError(text)
        named = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
        return [ast.literal_eval(value) for value in call.args], named
    except _NOT_PYTHON:
        raise ValueError(f"arguments that are neither JSON, one per line, nor values of Python: {text!r:.60}") from None


def _result(text: str) -> Any:
    """A result in a text: JSON, a value of Python, or the text itself."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(text)
    with contextlib.suppress(*_NOT_PYTHON):
        return ast.literal_eval(text.strip())
    return text


def _python(source: str) -> str:
    """Tests in Python. Raises ValueError when they cannot be parsed, or assert nothing when they run."""
    try:
        tree = ast.parse(source)
    except _NOT_PYTHON as error:
        raise ValueError(f"neither JSON with tests nor Python: {source[:40]!r}, {error}") from None
    if not any(_asserts(node) for node in ast.walk(tree)):
        raise ValueError(f"Python that asserts nothing: {source[:40]!r}; {_SHAPES}")
    if not any(_runs_tests(node) for node in tree.body):
        raise ValueError(f"Python that only defines functions: {source[:40]!r}; name the one to test as entry_point")
    return source


def _runs_tests(node: ast.stmt) -> bool:
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)
    return not isinstance(node, _PASSIVE) or getattr(node, "name", "").lower().startswith("test")


def _asserts(node: ast.AST) -> bool:
    name = getattr(node, "attr", getattr(node, "id", ""))
    return isinstance(node, ast.Assert) or name.startswith("assert") or name == "raises"


def _lines(value: object) -> list[str]:
    return [str(line) for line in value] if isinstance(value, list) else [str(value)] if value else []


def _text(value: object) -> str:
    """Standard input or output in a reference: a text, or a list of its lines."""
    if isinstance(value, list):
        return "\n".join(" ".join(map(_text, line)) if isinstance(line, list) else _text(line) for line in value)
    if isinstance(value, dict):
        raise ValueError(f"standard input or output that is neither a text nor a list of lines: {value!r:.40}")
    return "" if value is None else str(value)


def _decoded(text: str) -> Any:
    """The data in a text: JSON (perhaps in JSON again), values of Python, or the text itself."""
    for _ in range(3):
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            break
        if not isinstance(data, str):
            return data
        text = data
    if text.startswith("eJ"):
        # LiveCodeBench packs its private tests by zlib and pickle.
        with contextlib.suppress(ValueError, zlib.error, pickle.UnpicklingError, EOFError):
            return _decoded(str(_TextUnpickler(io.BytesIO(zlib.decompress(base64.b64decode(text)))).load()))
    if text.lstrip().startswith(("{", "[")):
        with contextlib.suppress(*_NOT_PYTHON):
            return ast.literal_eval(text.strip())
    return text


class _TextUnpickler(pickle.Unpickler):
    """Loads plain data only: nothing in a pickle is called."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name}")
