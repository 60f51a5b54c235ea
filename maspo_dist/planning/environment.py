"""What may be wrong with the environment of a run, one sentence each."""

from __future__ import annotations

import json
from collections.abc import Iterator

from maspo_dist.config import EnvironmentConfig, EvaluationConfig, TrainConfig
from maspo_dist.data.conversation import continuation
from maspo_dist.data.prompts import PromptSet
from maspo_dist.environments.play import play_notes
from maspo_dist.environments.protocol import Task
from maspo_dist.environments.schemas import tool_schemas
from maspo_dist.errors import ConfigError
from maspo_dist.models.facts import read_tokenizer

_HOW_TO_CALL = {
    "tags": 'To call a tool, write <tool_call>{"name": …, "arguments": {…}}</tool_call>.',
    "calls": "To call a tool, write name(argument, …) alone on a line.",
}


def environment_notes(config: TrainConfig, prompts: PromptSet | None) -> Iterator[str]:
    """Notes on deadlines, on tools that no prompt shows, and on two plays of the first prompt.

    Starts processes, and ends them. Raises ConfigError where the environment cannot be imported there.
    """
    environment = config.environment
    if environment is None:
        return
    yield from _deadline_notes(config, environment)
    if prompts is not None:
        yield from continuation_notes(config)
        yield from _tool_notes(environment, prompts)
        first = prompts.prompts[0]
        task = Task(prompt_id=first.prompt_id, reference=first.reference, source=first.source, seed=config.run.seed)
        yield from play_notes(environment, task)


def continuation_notes(config: TrainConfig | EvaluationConfig) -> list[str]:
    """What the chat template does to earlier turns, if that is not exact; empty without an environment.

    Raises ConfigError for prompts without a chat template, ModelError for a template that cannot continue a
    conversation.
    """
    environment = config.environment
    if environment is None:
        return []
    if config.data.template != "chat":
        raise ConfigError(
            f"data.template is {config.data.template!r}, but an environment is set, whose conversations need the chat "
            "template: set data.template to chat"
        )
    tokenizer, end_ids = read_tokenizer(config.model)
    _, note = continuation(tokenizer, end_ids, environment.role, environment.max_observation_tokens)
    return [] if note is None else [note]


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
