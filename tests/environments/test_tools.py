"""The environment of tools, in this process, and how tools are described to the model."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from maspo_dist.config import EnvironmentConfig
from maspo_dist.environments.protocol import Step, Task
from maspo_dist.environments.schemas import require_environment, tool_schemas
from maspo_dist.environments.tools import ToolEnvironment, load_tools
from maspo_dist.errors import ConfigError

OWN = "python:doubles.own_environments:"
TASK = Task(prompt_id="p", reference="4", source="test", seed=1)


def config(*tools: str, call_format: str = "tags", **keys: Any) -> EnvironmentConfig:
    return EnvironmentConfig.model_validate({"tools": [*tools], "call_format": call_format, **keys})


def play(config: EnvironmentConfig, *responses: str) -> list[Step]:
    with asyncio.Runner() as runner:
        environment = ToolEnvironment(config, load_tools(config), runner)
        environment.reset(TASK)
        return [environment.step(response) for response in responses]


def tagged(name: str, **arguments: object) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def test_results_are_heard_and_a_turn_without_a_call_is_the_answer() -> None:
    called, answered = play(
        config(OWN + "add", OWN + "slow_add"), tagged("add", a=1, b=2) + tagged("slow_add", a=3, b=4), "7"
    )
    assert called == Step(observation='3\n{"sum": 7}', metrics={"calls": 2, "failed_calls": 0})
    assert answered == Step(done=True, metrics={"calls": 0, "failed_calls": 0})


def test_a_call_on_a_line_passes_its_text() -> None:
    (step,) = play(config(OWN + "calc", call_format="calls"), "calc(583+749)")
    assert step == Step(observation="1332", metrics={"calls": 1, "failed_calls": 0})


@pytest.mark.parametrize(
    ("before", "calls"),
    [
        ("I could write <tool_call>…</tool_call> here.\n</think>\n", 1),
        ("<think>\nFirst " + tagged("add", a=5, b=6) + ", or <tool_call>?\n</think>\n\n", 1),
        ("<think>\nI will now write ", 0),
    ],
)
def test_what_a_reasoning_block_holds_is_no_call(before: str, calls: int) -> None:
    (step,) = play(config(OWN + "add"), before + tagged("add", a=1, b=2))
    assert step.metrics == {"calls": calls, "failed_calls": 0}
    assert (step.observation, step.done) == (("3", False) if calls else ("", True))


def test_the_methods_of_a_class_share_an_instance_per_trajectory() -> None:
    notes = config(OWN + "Notes")
    responses = (tagged("write_note", line="a"), tagged("write_note", line="b"), tagged("read_notes"))
    for _ in range(2):
        assert [step.observation for step in play(notes, *responses)] == ["1", "2", "a\nb"]


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (tagged("add", a="x"), "error: add: a: Input should be a valid integer, unable to parse string as an integer"),
        (tagged("add"), "error: add: a: Missing required argument"),
        (tagged("add", a=1, c=2), "error: add: c: Unexpected keyword argument"),
        (tagged("subtract", a=1), "error: there is no tool 'subtract'; the tools are add, calc"),
        (tagged("calc", expression="1+x"), "error: ValueError: invalid literal for int() with base 10: 'x'"),
    ],
)
def test_a_wrong_call_is_answered_by_one_line_and_counted(call: str, line: str) -> None:
    (step,) = play(config(OWN + "add", OWN + "calc"), call)
    assert step == Step(observation=line, metrics={"calls": 1, "failed_calls": 1})


def test_a_program_runs_in_the_sandbox_and_its_end_is_heard() -> None:
    programs = ("print(2 ** 10)", "x = 1", "print('before')\n1 / 0", "while True: pass")
    steps = play(config("python", step_timeout_s=2.0), *(tagged("python", code=program) for program in programs))
    assert [step.observation for step in steps[:3]] == [
        "1024\n",
        "the program printed nothing",
        "before\nexit code 1 in line 2: ZeroDivisionError: division by zero",
    ]
    assert steps[3].observation in ("wall time limit", "CPU time limit")
    assert all(step.metrics == {"calls": 1, "failed_calls": 0} for step in steps)


def test_the_model_is_told_types_and_descriptions() -> None:
    add, program = tool_schemas(config(OWN + "add", "python"))
    assert add["function"] == {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {
            "type": "object",
            "properties": {
                "a": {"type": "integer", "description": "The first number."},
                "b": {"type": "integer", "description": "The second number."},
            },
            "required": ["a"],
        },
        "return": {"type": "integer"},
    }
    assert program["function"]["name"] == "python"
    assert program["function"]["parameters"]["required"] == ["code"]
    methods = tool_schemas(config(OWN + "Notes"))
    assert [schema["function"]["name"] for schema in methods] == ["read_notes", "write_note"]
    assert tool_schemas(None) == []


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"tools": [OWN + "undocumented"]}, "undocumented cannot be shown to a model: it has no docstring; give each"),
        (
            {"tools": [OWN + "untyped"]},
            "Argument a is missing a type hint in function untyped; give each argument a type",
        ),
        ({"tools": [OWN + "half_documented"]}, "the docstring has no description for the argument 'b'; give each"),
        ({"tools": [OWN + "holds_a_socket"]}, "<class 'socket.socket'>): give each a type that JSON can hold"),
        ({"tools": [OWN + "Empty"]}, "a class without public methods: each is a tool"),
        ({"tools": [OWN + "NOT_A_TOOL"]}, "which is neither a function nor a class: name one"),
        ({"tools": [OWN + "missing"]}, "environment.tools.0 is 'python:doubles.own_environments:missing', but module"),
        ({"tools": ["python:no_such_module:f"]}, "but importing no_such_module fails"),
        (
            {"tools": [OWN + "add", "python:doubles.other_tools:add"]},
            "environment.tools.0 and environment.tools.1 both name a tool 'add': rename one",
        ),
        (
            {"kind": OWN + "Stepless"},
            "environment.kind is 'python:doubles.own_environments:Stepless', which lacks step",
        ),
        ({"kind": OWN + "Demanding"}, "whose constructor must need no arguments"),
        ({"kind": OWN + "add"}, "which is no class: name one with the methods of Environment"),
    ],
)
def test_what_breaks_the_contract_is_refused_in_one_sentence(environment: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        require_environment(EnvironmentConfig.model_validate(environment))
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("environment.")
    assert "\n" not in str(caught.value)
