"""Prompts that leave a reasoning block open, as the chat templates of many reasoning models do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import jinja2
from transformers import PreTrainedTokenizerBase

from maspo_dist.config import PromptConfig
from maspo_dist.config.reasoning import final_reasoning_tag, open_reasoning
from maspo_dist.types import IntArray, Prompt

#: Tokens of a prompt's end in which its last tag is looked for.
_TAIL_TOKENS = 16


def mark_open_reasoning(
    prompts: Sequence[Prompt], config: PromptConfig, tokenizer: PreTrainedTokenizerBase, tags: Mapping[str, str]
) -> tuple[Prompt, ...]:
    """The prompts, with `response_start` where the prompt leaves a block of `tags` open.

    A chat template is asked for the text that it adds for the answer. Any other prompt leaves a block open where it
    ends with an opening tag: a tag within a problem is part of the problem.
    """
    start = open_reasoning(_generation_prompt(tokenizer), tags) if config.template == "chat" else ""
    ends = {tag.rstrip()[-1:] for tag in tags}
    last_texts: dict[int, str] = {}

    def response_start(token_ids: IntArray) -> str:
        last = int(token_ids[-1])
        if last not in last_texts:
            last_texts[last] = str(tokenizer.decode([last]))
        if (last_texts[last].rstrip() or ">")[-1] not in ends:
            return ""
        return final_reasoning_tag(str(tokenizer.decode(token_ids[-_TAIL_TOKENS:].tolist())), tags)

    starts = [start or response_start(prompt.token_ids) for prompt in prompts]
    if not any(starts):
        return tuple(prompts)
    return tuple(replace(prompt, response_start=found) for prompt, found in zip(prompts, starts, strict=True))


def _generation_prompt(tokenizer: PreTrainedTokenizerBase) -> str:
    messages = [{"role": "user", "content": "1"}]
    try:
        without, text = (
            str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=wanted))
            for wanted in (False, True)
        )
    except (jinja2.TemplateError, TypeError, ValueError, LookupError):
        return ""  # The template refuses this conversation; the ends of the prompts say enough.
    return text.removeprefix(without)
