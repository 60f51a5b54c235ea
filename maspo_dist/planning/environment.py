"""What `maspo-dist check` shows of the environment of a run, and what may be wrong with it."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from maspo_dist.config import EnvironmentConfig, EvaluationConfig, TrainConfig
from maspo_dist.data.chat import ChatTemplate
from maspo_dist.data.conversation import Continuation, continuation
from maspo_dist.data.prompts import PromptSet
from maspo_dist.environments.play import Play, play_notes, play_twice
from maspo_dist.environments.protocol import Task
from maspo_dist.environments.schemas import tool_schemas
from maspo_dist.errors import ConfigError
from maspo_dist.models.facts import read_tokenizer
from maspo_dist.types import Prompt

#: What a prompt holds that shows a call as it is read; the tools' names stand in place of {}.
_SHOWN_CALL = {"tags": r"<tool_call>\s*\{{+\s*['\"](name|arguments)", "calls": r"\b({}|name)\("}
_HOW_TO_CALL = {
    "tags": 'To call a tool, write <tool_call>{"name": …, "arguments": {…}}</tool_call>.',
    "calls": "To call a tool, write name(argument, …) alone on a line.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentFindings:
    """What `check` says of an environment.

    conversations   per source, a whole conversation as the model sees it, whose turns of the model are made up
    notes           what may be wrong, one sentence each
    """

    conversations: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def inspect_environment(config: TrainConfig, prompts: PromptSet | None) -> EnvironmentFindings:
    """Looks at deadlines, at tools that no prompt shows, and at two plays of the first prompt of each source.

    Starts processes, and ends them. Raises ConfigError where the environment cannot be imported there, and as
    `continuation_notes` does.
    """
    environment = config.environment
    if environment is None:
        return EnvironmentFindings()
    notes = list(_deadline_notes(config, environment))
    if prompts is None:
        return EnvironmentFindings(notes=tuple(notes))
    how, note = _continuation(config, environment)
    notes += [*([] if note is None else [note]), *_turn_notes(how, prompts), *_tool_notes(environment, prompts)]
    firsts = {prompt.source: prompt for prompt in reversed(prompts.prompts)}
    examples = [firsts[example.source] for example in prompts.examples]
    tasks = [
        Task(prompt_id=prompt.prompt_id, reference=prompt.reference, source=prompt.source, seed=config.run.seed)
        for prompt in examples
    ]
    conversations = []
    for prompt, plays in zip(examples, play_twice(environment, tasks), strict=True):
        conversations.append((prompt.source, _conversation(how, prompt, plays[0])))
        notes += play_notes(environment, *plays)
    return EnvironmentFindings(conversations=tuple(conversations), notes=tuple(notes))


def _conversation(how: Continuation, prompt: Prompt, play: Play) -> str:
    """The prompt and all that came after it. The observation after the last turn is left out: the model does not read
    it in training either.
    """
    turns = [f"{said}{how.said([how.turn_end])}" for said in play.said]
    heard = [how.said(how.heard(step.observation).token_ids.tolist()) for step in play.steps[: len(turns) - 1]]
    return how.said(prompt.token_ids.tolist()) + "".join(
        part for pair in itertools.zip_longest(turns, heard, fillvalue="") for part in pair
    )


def continuation_notes(config: TrainConfig | EvaluationConfig) -> list[str]:
    """What the chat template does to earlier turns, if that is not exact; empty without an environment.

    Raises ConfigError for prompts without a chat template, ModelError for a template that cannot continue a
    conversation.
    """
    if config.environment is None:
        return []
    _, note = _continuation(config, config.environment)
    return [] if note is None else [note]


def _continuation(
    config: TrainConfig | EvaluationConfig, environment: EnvironmentConfig
) -> tuple[Continuation, str | None]:
    if config.data.template != "chat":
        raise ConfigError(
            f"data.template is {config.data.template!r}, but an environment is set, whose conversations need the chat "
            "template: set data.template to chat"
        )
    tokenizer, end_ids = read_tokenizer(config.model)
    template = ChatTemplate(tokenizer, config.data)
    return continuation(template, end_ids, environment.role, environment.max_observation_tokens)


def _deadline_notes(config: TrainConfig, environment: EnvironmentConfig) -> Iterator[str]:
    call_s, turns = environment.step_timeout_s, environment.max_turns
    for key, seconds in (
        ("cluster.generate_timeout_s", config.cluster.generate_timeout_s),
        ("cluster.stall_timeout_s", config.cluster.stall_timeout_s),
    ):
        # Both count from the last token of any response.
        if call_s >= seconds:
            yield (
                f"environment.step_timeout_s ({call_s:g}) is not less than {key} ({seconds:g}): a worker whose "
                "trajectories all wait for their environments counts as hanging; lower the first or raise the second"
            )
    straggler = config.rollout.straggler
    if straggler.deadline_s is not None and turns * call_s > straggler.deadline_s:
        yield (
            f"environment.max_turns ({turns}) × environment.step_timeout_s ({call_s:g}) is more than "
            f"rollout.straggler.deadline_s ({straggler.deadline_s:g}), which counts the time of environments too: "
            "slow environments make stragglers"
        )
    if not config.rollout.in_flight_updates:
        yield (
            "rollout.in_flight_updates is false, so each publish waits for the end of whole trajectories, their "
            "environments included; true updates between two tokens"
        )


def _turn_notes(how: Continuation, prompts: PromptSet) -> Iterator[str]:
    for example in prompts.examples:
        if not example.text.endswith(how.turn_start):
            first = example.text[-len(how.turn_start) - 20 :]
            yield (
                f"source {example.source}: the first turn of the model begins behind {first!r}, and each later turn "
                f"behind {how.turn_start!r}: the chat template writes it by the system message, and later turns get "
                "that of data.system_prompt; set it there, for all rows"
            )


def _tool_notes(environment: EnvironmentConfig, prompts: PromptSet) -> Iterator[str]:
    schemas = tool_schemas(environment)
    names = [schema["function"]["name"] for schema in schemas]
    for example in prompts.examples:
        unseen = [name for name in names if name not in example.text]
        if unseen:
            described = "\n".join(json.dumps(schema["function"], ensure_ascii=False) for schema in schemas)
            yield (
                f"source {example.source}: the prompt does not name the tools {', '.join(unseen)}, because the chat "
                f"template does not show tools: a model that has not learned them needs a data.system_prompt such as\n"
                f"{_HOW_TO_CALL[environment.call_format]} The tools:\n{described}"
            )
            return
        shown = _SHOWN_CALL[environment.call_format].format("|".join(map(re.escape, names)))
        if names and not re.search(shown, example.text):
            yield (
                f"source {example.source}: the prompt shows no call as environment.call_format "
                f"{environment.call_format} reads it, and the chat template may show calls in another format, which "
                "count as text: a model that has not learned this format needs a data.system_prompt such as\n"
                f"{_HOW_TO_CALL[environment.call_format]}"
            )
            return
