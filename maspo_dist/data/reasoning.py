"""Prompts that leave a reasoning block open, as the chat templates of many reasoning models do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from maspo_dist.config import PromptConfig
from maspo_dist.config.reasoning import final_reasoning_tag, open_reasoning
from maspo_dist.data.chat import ChatTemplate
from maspo_dist.types import IntArray, Prompt

#: A template may refuse this conversation; then the ends of the prompts say enough.
_ANY = [{"role": "user", "content": "1"}]
#: Tokens of a prompt's end in which its last tag is looked for.
_TAIL_TOKENS = 16
#: Ends of prompts that are kept: nearly all prompts end alike.
_ENDS = 1024


def mark_open_reasoning(
    prompts: Sequence[Prompt], config: PromptConfig, tokenizer: PreTrainedTokenizerBase, tags: Mapping[str, str]
) -> tuple[Prompt, ...]:
    """The prompts, with `response_start` where the prompt leaves a block of `tags` open.

    The text that a chat template adds before an answer is read once. A template may add another text to some prompts,
    so a prompt counts only if it ends with that text. Any other prompt leaves a block open where it ends with an
    opening tag: a tag within a problem is part of the problem.
    """
    start = open_reasoning(ChatTemplate(tokenizer, config).turn_start(_ANY), tags) if config.template == "chat" else ""
    names = [tag.strip().casefold() for tag in tags]
    may_end_tag: dict[int, bool] = {}
    # A few tokens more than the text alone needs: after other text, the tokenizer may split it differently.
    tokens = len(tokenizer.encode(start, add_special_tokens=False)) + 4 if start else 0

    @lru_cache(_ENDS)
    def ends_with_start(end: tuple[int, ...]) -> bool:
        return str(tokenizer.decode(end)).rstrip().endswith(start.strip())

    def response_start(token_ids: IntArray) -> str:
        if start and ends_with_start(tuple(token_ids[-tokens:].tolist())):
            return start
        last = int(token_ids[-1])
        if last not in may_end_tag:
            # White space may follow a tag, and a token may hold a part of a tag, or of a character.
            text = str(tokenizer.decode([last])).strip().casefold()
            may_end_tag[last] = "\ufffd" in text or any(tag.endswith(text) or text.endswith(tag) for tag in names)
        if not may_end_tag[last]:
            return ""
        return final_reasoning_tag(str(tokenizer.decode(token_ids[-_TAIL_TOKENS:].tolist())), tags)

    starts = [response_start(prompt.token_ids) for prompt in prompts]
    if not any(starts):
        return tuple(prompts)
    return tuple(replace(prompt, response_start=found) for prompt, found in zip(prompts, starts, strict=True))
