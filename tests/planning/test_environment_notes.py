"""Each rule of `check` on environments, with the sentence that it prints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from doubles.loop import make_config

from maspo_dist.config import PromptConfig, TrainConfig
from maspo_dist.data.chat import ChatTemplate
from maspo_dist.data.conversation import Continuation
from maspo_dist.data.prompts import Example, PromptSet
from maspo_dist.demo.model import make_tokenizer
from maspo_dist.environments.play import Play
from maspo_dist.environments.protocol import Step, Task
from maspo_dist.planning import environment as planning
from maspo_dist.planning.environment import EnvironmentFindings, inspect_environment
from maspo_dist.types import Prompt

HOW = Continuation(ChatTemplate(make_tokenizer(), PromptConfig()), "tool", 64)
TOOLS = {"tools": ["python"], "max_turns": 4, "step_timeout_s": 10}


def config(**sections: dict[str, object]) -> TrainConfig:
    return make_config(**{"environment": TOOLS, **sections})


def test_without_an_environment_there_is_nothing_to_note() -> None:
    assert inspect_environment(make_config(), None) == EnvironmentFindings()


def test_an_environment_within_all_deadlines_has_no_notes() -> None:
    assert inspect_environment(config(), None) == EnvironmentFindings()


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        (
            {"cluster": {"generate_timeout_s": 10}},
            "environment.step_timeout_s (10) is not less than cluster.generate_timeout_s (10): a worker whose "
            "trajectories all wait for their environments counts as hanging; lower the first or raise the second",
        ),
        (
            {"cluster": {"stall_timeout_s": 5}},
            "environment.step_timeout_s (10) is not less than cluster.stall_timeout_s (5): a worker whose "
            "trajectories all wait for their environments counts as hanging; lower the first or raise the second",
        ),
        (
            {"rollout": {"straggler": {"deadline_s": 39}}},
            "environment.max_turns (4) × environment.step_timeout_s (10) is more than rollout.straggler.deadline_s "
            "(39), which counts the time of environments too: slow environments make stragglers",
        ),
        (
            {"rollout": {"in_flight_updates": False}},
            "rollout.in_flight_updates is false, so each publish waits for the end of whole trajectories, their "
            "environments included; true updates between two tokens",
        ),
    ],
)
def test_what_an_environment_may_hold_up_is_one_sentence(sections: dict[str, dict[str, object]], sentence: str) -> None:
    assert inspect_environment(config(**sections), None) == EnvironmentFindings(notes=(sentence,))


@pytest.mark.parametrize(
    ("call_format", "how"),
    [
        ("tags", 'To call a tool, write <tool_call>{"name": …, "arguments": {…}}</tool_call>.'),
        ("calls", "To call a tool, write name(argument, …) alone on a line."),
    ],
)
def test_a_prompt_that_shows_no_tools_is_noted_with_a_system_prompt_that_does(
    call_format: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = script(monkeypatch, "the template drops earlier turns", ["two plays differ"])
    found = inspect_environment(config(environment={**TOOLS, "call_format": call_format}), prompts())
    [continued, tools, plays] = found.notes
    assert (continued, plays) == ("the template drops earlier turns", "two plays differ")
    assert tools.startswith(
        "source sums: the prompt does not name the tools python, because the chat template does not show tools: a "
        f"model that has not learned them needs a data.system_prompt such as\n{how} The tools:\n"
    )
    assert '{"name": "python", "description": ' in tools
    assert [(task.prompt_id, task.reference) for task in played] == [("p", "3")]


def test_a_prompt_that_names_all_tools_needs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, None, [])
    shown = 'You may use python: <tool_call>\n{"name": <function-name>, "arguments": {…}}\n</tool_call><|assistant|>'
    found = inspect_environment(config(), prompts(shown))
    assert found.notes == ()
    assert found.conversations == (("sums", "<|end|><|pad|>1<|end|><|user|>7<|assistant|>2<|end|>"),)


@pytest.mark.parametrize(
    ("call_format", "text"),
    [
        ("tags", 'python: {"name": function name, "parameters": {…}}'),
        ("tags", "python: <tool_call>\n<function=python>\n</function>\n</tool_call>"),
        ("calls", 'python: <tool_call>\n{"name": …, "arguments": {…}}\n</tool_call>'),
    ],
)
def test_a_prompt_that_shows_calls_as_they_are_not_read_is_noted(
    call_format: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, None, [])
    found = inspect_environment(
        config(environment={**TOOLS, "call_format": call_format}), prompts(f"{text}<|assistant|>")
    )
    [note] = found.notes
    assert note.startswith(
        f"source sums: the prompt shows no call as environment.call_format {call_format} reads it, and the chat "
    )
    assert "needs a data.system_prompt such as\nTo call a tool, write " in note


def test_a_first_turn_that_begins_in_another_way_than_later_turns_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, None, [])
    [note, _] = inspect_environment(config(), prompts("1+2?<|assistant|><think></think>")).notes
    assert note == (
        "source sums: the first turn of the model begins behind '1+2?<|assistant|><think></think>', and each later "
        "turn behind '<|assistant|>': the chat template writes it by the system message, and later turns get that of "
        "data.system_prompt; set it there, for all rows"
    )


def script(monkeypatch: pytest.MonkeyPatch, note: str | None, of_plays: list[str]) -> list[Task]:
    """Scripts the notes on the template and on two plays; the tasks that are played are added to the result."""
    played: list[Task] = []

    def play_twice(_: object, tasks: Sequence[Task]) -> list[tuple[Play, Play]]:
        played.extend(tasks)
        plays = [Play(task=task, said=("1", "2"), steps=(Step(observation="7"), Step(done=True))) for task in tasks]
        return [(play, play) for play in plays]

    monkeypatch.setattr(planning, "_continuation", lambda *_: (HOW, note))
    monkeypatch.setattr(planning, "play_twice", play_twice)
    monkeypatch.setattr(planning, "play_notes", lambda *_: of_plays)
    return played


def prompts(text: str = "1+2?<|assistant|>") -> PromptSet:
    example = Example(source="sums", prompts=1, text=text, tokens=4, notes=())
    prompt = Prompt(prompt_id="p", token_ids=np.array([0, 1], np.int32), reference="3", source="sums")
    return PromptSet(prompts=(prompt,), dropped_overlong=0, examples=(example,))
