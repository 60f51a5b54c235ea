"""From rows to tokenized prompts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import jinja2
import numpy as np
from transformers import PreTrainedTokenizerBase

from maspo_dist.config import PromptConfig
from maspo_dist.data.rows import Row, read_rows
from maspo_dist.errors import DataError, ModelError
from maspo_dist.types import IntArray, Prompt

#: Rows tokenized in one call.
_CHUNK_ROWS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """Prompts with distinct ids, in file order, and the number of rows that were dropped as too long."""

    prompts: tuple[Prompt, ...]
    dropped_overlong: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextLimit:
    """The longest sequence that the model can hold, and the longest response, in tokens."""

    context_tokens: int
    response_tokens: int


def load_prompts(
    data_sets: Sequence[str],
    config: PromptConfig,
    tokenizer: PreTrainedTokenizerBase,
    limit: ContextLimit | None = None,
) -> PromptSet:
    """Reads and tokenizes `data_sets` (paths or `hf:NAME[:SPLIT]`) in order.

    A repeated id gets `~2`, `~3`, … in order of appearance. Rows that are longer than `config.max_prompt_tokens`, or
    too long for `limit`, are refused or dropped as `config.overlong_prompts` says.

    Raises DataError as `read_rows` does, for a row that is too long, and when no prompt is left; ModelError when the
    configuration asks for a chat template and the tokenizer has none.
    """
    if config.template == "chat" and not tokenizer.chat_template:
        raise ModelError(
            f"data.template is chat, but the tokenizer {tokenizer.name_or_path} has no chat template; "
            "set data.template to none, or to text with {problem}"
        )
    rows = [row for data_set in data_sets for row in read_rows(data_set, config)]
    prompts: list[Prompt] = []
    for row, prompt_id, token_ids in zip(rows, _distinct_ids(rows), _tokenize(rows, config, tokenizer), strict=True):
        complaint = _too_long(len(token_ids), config, limit)
        if complaint is None:
            prompts.append(Prompt(prompt_id=prompt_id, token_ids=token_ids, reference=row.answer, source=row.source))
        elif config.overlong_prompts == "refuse":
            raise DataError(f"{row.where}: {complaint}, or set data.overlong_prompts to drop")
    if not prompts:
        raise DataError(
            f"{', '.join(data_sets)}: all {len(rows)} prompts are too long; raise data.max_prompt_tokens "
            "or lower max_response_tokens"
        )
    return PromptSet(prompts=tuple(prompts), dropped_overlong=len(rows) - len(prompts))


def _too_long(tokens: int, config: PromptConfig, limit: ContextLimit | None) -> str | None:
    if tokens > config.max_prompt_tokens:
        return f"the prompt has {tokens} tokens, over data.max_prompt_tokens ({config.max_prompt_tokens}); raise it"
    if limit and tokens + limit.response_tokens > limit.context_tokens:
        return (
            f"the prompt's {tokens} tokens and a response of {limit.response_tokens} "
            f"are over the model's context ({limit.context_tokens}); lower max_response_tokens"
        )
    return None


def _distinct_ids(rows: Iterable[Row]) -> list[str]:
    taken: set[str] = set()
    ids: list[str] = []
    for row in rows:
        candidates = itertools.chain([row.row_id], (f"{row.row_id}~{n}" for n in itertools.count(2)))
        ids.append(next(candidate for candidate in candidates if candidate not in taken))
        taken.add(ids[-1])
    return ids


def _tokenize(rows: Sequence[Row], config: PromptConfig, tokenizer: PreTrainedTokenizerBase) -> Iterator[IntArray]:
    # A chat template writes its own special tokens; the tokenizer adds them to other text.
    special = config.template != "chat"
    for start in range(0, len(rows), _CHUNK_ROWS):
        chunk = rows[start : start + _CHUNK_ROWS]
        texts = [_render(row, config, tokenizer) for row in chunk]
        token_ids = tokenizer(texts, add_special_tokens=special, verbose=False)["input_ids"]
        for row, ids in zip(chunk, token_ids, strict=True):
            if not ids:
                raise DataError(f"{row.where}: the prompt has no tokens")
            yield np.asarray(ids, dtype=np.int32)


def _render(row: Row, config: PromptConfig, tokenizer: PreTrainedTokenizerBase) -> str:
    """The prompt as text, up to the start of the response."""
    if config.template == "chat":
        return _render_chat(row, config, tokenizer)
    if not isinstance(row.problem, str):
        raise DataError(f"{row.where}: the problem is a list of chat messages, which needs data.template chat")
    problem = row.problem + config.problem_suffix
    return problem if config.template == "none" else config.template.replace("{problem}", problem)


def _render_chat(row: Row, config: PromptConfig, tokenizer: PreTrainedTokenizerBase) -> str:
    turns = (("user", row.problem),) if isinstance(row.problem, str) else row.problem
    *before, (role, content) = turns
    turns = (*before, (role, content + config.problem_suffix))
    if config.system_prompt is not None:
        turns = (("system", config.system_prompt), *turns)
    messages = [{"role": role, "content": content} for role, content in turns]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except jinja2.TemplateError as error:
        raise DataError(f"{row.where}: the tokenizer's chat template refuses the prompt: {error}") from None
