"""The chat template of a tokenizer, as a run uses it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jinja2

from maspo_dist.config import PromptConfig

if TYPE_CHECKING:
    # Rollout workers without an environment do without transformers.
    from transformers import PreTrainedTokenizerBase

Chat = list[dict[str, str]]
#: JSON schemas of tools, as chat templates take them.
Tools = Sequence[Mapping[str, Any]]

#: What a template raises that refuses a conversation, or cannot write it.
TEMPLATE_ERRORS = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError)


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """Renders conversations. Templates that write today's date write `data.date` instead: every day's prompts agree."""

    tokenizer: PreTrainedTokenizerBase
    config: PromptConfig
    tools: Tools = ()

    def text(self, chat: Chat, *, add_generation_prompt: bool = True) -> str:
        """The conversation as text, by default up to the start of the model's turn. Raises TEMPLATE_ERRORS."""
        return str(
            self.tokenizer.apply_chat_template(
                chat,
                tools=[dict(tool) for tool in self.tools] or None,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                strftime_now=self.config.date.strftime,
            )
        )

    def turn_start(self, chat: Chat) -> str:
        """The text with which the model's turn after `chat` begins; "" where the template refuses `chat`.

        It is what follows the part that the template writes with and without the turn. Without it, some templates end
        the text by a token of their own.
        """
        try:
            without, text = (self.text(chat, add_generation_prompt=wanted) for wanted in (False, True))
        except TEMPLATE_ERRORS:
            return ""
        return text[first_difference(without, text) :]

    def opening(self) -> Chat:
        """The system message of a conversation that has none of its own; empty without `data.system_prompt`."""
        prompt = self.config.system_prompt
        return [] if prompt is None else [{"role": "system", "content": prompt}]


def first_difference(one: str, other: str) -> int:
    """The index of the first character in which the texts differ; where one begins the other, its length."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (left, right) in pairs if left != right), min(len(one), len(other)))
