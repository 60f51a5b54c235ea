"""From rows to tokenized prompts."""

from __future__ import annotations

import gc
import hashlib
import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from maspo_dist.config import PromptConfig
from maspo_dist.data.chat import Tools
from maspo_dist.data.rows import SYSTEM_ROLES, Row, read_rows
from maspo_dist.data.template import Renderer
from maspo_dist.errors import DataError, ModelError
from maspo_dist.types import IntArray, Prompt

#: Rows tokenized in one call.
_CHUNK_ROWS = 4096
#: Seconds between two lines of progress.
_PROGRESS_S = 5.0
#: Methods that a call of a tokenizer goes through.
_CALLED = ("__call__", "_encode_plus", "_convert_encoding")
#: In place of the index of a prompt that is being tokenized.
_PENDING = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """The first prompt of a source as the model sees it, special tokens included.

    prompts   number of prompts of the source
    notes     what may be wrong with the prompt, one sentence each
    """

    source: str
    prompts: int
    text: str
    tokens: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """Prompts with distinct ids, in file order.

    dropped_overlong   number of rows that were dropped as too long
    examples           one per source
    notes              what may be wrong with the rows, one sentence each
    """

    prompts: tuple[Prompt, ...]
    dropped_overlong: int
    examples: tuple[Example, ...] = ()
    notes: tuple[str, ...] = ()


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
    tools: Tools = (),
) -> PromptSet:
    """Reads and tokenizes `data_sets` (paths or `hf:NAME[/CONFIG][:SPLIT]`) in order; prints its progress if that
    takes long.

    A repeated id gets `~2`, `~3`, … in order of appearance. Rows that are longer than `config.max_prompt_tokens`, or
    too long for `limit`, are refused or dropped as `config.overlong_prompts` says. A chat template is given `tools`.

    Raises DataError as `read_rows` does, for a row that is too long, and when no prompt is left; ModelError when the
    configuration asks for a chat template and the tokenizer has none.
    """
    if config.template == "chat" and not tokenizer.chat_template:
        raise ModelError(
            f"data.template is chat, but the tokenizer {tokenizer.name_or_path} has no chat template; "
            "set data.template to none, or to text with {problem}"
        )
    rows = itertools.chain.from_iterable(read_rows(data_set, config) for data_set in data_sets)
    next_line = time.monotonic() + _PROGRESS_S
    with _no_collections(), ThreadPoolExecutor(1, "tokenizer") as thread:
        loading = _Loading(config, Renderer(config, tokenizer, tools), tokenizer, limit, thread)
        while chunk := list(itertools.islice(rows, _CHUNK_ROWS)):
            loading.add(chunk)
            if time.monotonic() > next_line:
                print(f"{chunk[-1].where}: {loading.rows:,} rows are loaded", file=sys.stderr, flush=True)
                next_line = time.monotonic() + _PROGRESS_S
        loading.finish()
    if not loading.prompts:
        raise DataError(
            f"{', '.join(data_sets)}: all {loading.rows} prompts are too long; raise data.max_prompt_tokens "
            "or lower max_response_tokens"
        )
    return PromptSet(
        prompts=tuple(loading.prompts),
        dropped_overlong=loading.rows - len(loading.prompts),
        examples=tuple(loading.examples()),
        notes=tuple(loading.notes()),
    )


@contextmanager
def _no_collections() -> Iterator[None]:
    """Stops the garbage collector, which would visit all prompts again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _encoder(tokenizer: PreTrainedTokenizerBase, *, special: bool) -> Callable[[list[str]], list[list[int]]]:
    """What makes token ids of texts as `tokenizer` does, with or without its special tokens.

    A call of a fast tokenizer takes most of its time in Python, after the library behind it is done. So that library is
    called, unless the tokenizer's class has a way of its own.
    """

    def encode(texts: list[str]) -> list[list[int]]:
        wanted = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
        ids: list[list[int]] = tokenizer(texts, add_special_tokens=special, **wanted)["input_ids"]
        return ids

    kind = type(tokenizer)
    if not all(getattr(kind, name, None) is getattr(PreTrainedTokenizerFast, name) for name in _CALLED):
        return encode
    # The first call puts away the truncation and the padding of the tokenizer's file.
    encode(["1"])
    backend = tokenizer.backend_tokenizer
    return lambda texts: [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=special)]


class _Loading:
    """The prompts loaded so far. A problem that repeats is rendered and tokenized once.

    The tokenizer runs outside the interpreter's lock: `thread` tokenizes a chunk while the next chunk is read.
    """

    def __init__(
        self,
        config: PromptConfig,
        renderer: Renderer,
        tokenizer: PreTrainedTokenizerBase,
        limit: ContextLimit | None,
        thread: ThreadPoolExecutor,
    ) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._renderer = renderer
        # A chat template writes its own special tokens; the tokenizer adds them to other text.
        self._encode = _encoder(tokenizer, special=config.template != "chat")
        self._limit = limit
        self._thread = thread
        self._pending: tuple[Sequence[Row], list[bytes], list[bytes], Future[list[IntArray]]] | None = None
        self.rows = 0
        self.prompts: list[Prompt] = []
        #: By problem: the index of its first prompt, None if the problem is too long, or `_PENDING`.
        self._first: dict[bytes, int | None] = {}
        self._first_rows: dict[str, tuple[Row, Prompt]] = {}
        self._sources: Counter[str] = Counter()
        self._ids: set[str] = set()
        self._next_suffix: dict[str, int] = {}
        self._own_system = 0
        self._from_text = 0
        self._contradicting: dict[bytes, str] = {}

    def add(self, rows: Sequence[Row]) -> None:
        self.rows += len(rows)
        keys = [hashlib.blake2b(repr(row.problem).encode(), digest_size=16).digest() for row in rows]
        fresh: dict[bytes, Row] = {}
        for key, row in zip(keys, rows, strict=True):
            if key not in self._first:
                self._first[key] = _PENDING
                fresh[key] = row
        texts = self._renderer.texts(list(fresh.values()))
        tokens = self._thread.submit(self._tokenize, list(fresh.values()), texts)
        self.finish()
        self._pending = rows, keys, list(fresh), tokens

    def finish(self) -> None:
        """Adds the rows whose tokens are pending."""
        if self._pending is not None:
            rows, keys, fresh_keys, tokens = self._pending
            fresh = dict(zip(fresh_keys, tokens.result(), strict=True))
            for key, row in zip(keys, rows, strict=True):
                self._add_row(key, row, fresh)

    def _add_row(self, key: bytes, row: Row, fresh: dict[bytes, IntArray]) -> None:
        if not isinstance(row.problem, str):
            self._own_system += any(role in SYSTEM_ROLES for role, _ in row.problem)
            self._from_text += row.from_text
        prompt_id = self._distinct_id(row.row_id)
        if self._first[key] == _PENDING:
            self._first[key] = len(self.prompts) if self._fits(row, fresh[key].size) else None
        first = self._first[key]
        if first is None:
            return
        is_new = first == len(self.prompts)
        token_ids = fresh[key] if is_new else self.prompts[first].token_ids
        if not is_new and self.prompts[first].reference != row.answer:
            self._contradicting.setdefault(key, f"{row.where}: {row.answer!r} and {self.prompts[first].reference!r}")
        source = sys.intern(row.source)
        prompt = Prompt(prompt_id=prompt_id, token_ids=token_ids, reference=row.answer, source=source)
        self.prompts.append(prompt)
        self._sources[source] += 1
        if source not in self._first_rows:
            self._first_rows[source] = row, prompt

    def notes(self) -> Iterator[str]:
        rows, distinct = len(self.prompts), sum(first is not None for first in self._first.values())
        if distinct < rows:
            yield f"{distinct:,} of {rows:,} prompts are distinct, so an epoch takes each {rows / distinct:.3g} times"
        if self._contradicting:
            count, where = len(self._contradicting), next(iter(self._contradicting.values()))
            yield f"{count:,} prompts have rows with different answers; the first is {where}"
        if self._next_suffix:
            count, row_id = len(self._next_suffix), next(iter(self._next_suffix))
            yield f"{count:,} ids stand in several rows; the repeats of the first are called {row_id}~2, {row_id}~3, …"
        if self._own_system and self._config.system_prompt is not None:
            yield (
                f"{self._own_system:,} of {self.rows:,} rows have a system message of their own, which is used instead "
                "of data.system_prompt"
            )
        if self._from_text:
            yield (
                f"{self._from_text:,} of {self.rows:,} rows keep their messages as JSON text in "
                f"{self._config.problem_field}; they are read as messages"
            )

    def examples(self) -> Iterator[Example]:
        for source, (row, prompt) in self._first_rows.items():
            ids = prompt.token_ids.tolist()
            yield Example(
                source=source,
                prompts=self._sources[source],
                text=str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)),
                tokens=len(ids),
                notes=tuple(self._renderer.notes(row, ids)),
            )

    def _tokenize(self, rows: Sequence[Row], texts: list[str]) -> list[IntArray]:
        """The token ids of `texts`, the prompts of `rows`."""
        if not texts:
            return []
        ids = self._encode(texts)
        ends = np.cumsum([len(row_ids) for row_ids in ids]).tolist()
        if not all(ids):
            empty = next(row for row, row_ids in zip(rows, ids, strict=True) if not row_ids)
            raise DataError(f"{empty.where}: the prompt has no tokens")
        flat = np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int32, count=ends[-1])
        return [flat[start:end] for start, end in itertools.pairwise([0, *ends])]

    def _fits(self, row: Row, tokens: int) -> bool:
        """Whether a prompt of `row` is short enough. Raises DataError if it is not and long prompts are refused."""
        most, limit = self._config.max_prompt_tokens, self._limit
        if tokens > most:
            complaint = f"the prompt has {tokens} tokens, over data.max_prompt_tokens ({most}); raise it"
        elif limit and tokens + limit.response_tokens > limit.context_tokens:
            complaint = (
                f"the prompt's {tokens} tokens and a response of {limit.response_tokens} "
                f"are over the model's context ({limit.context_tokens}); lower max_response_tokens"
            )
        else:
            return True
        if self._config.overlong_prompts == "refuse":
            raise DataError(f"{row.where}: {complaint}, or set data.overlong_prompts to drop")
        return False

    def _distinct_id(self, row_id: str) -> str:
        candidate, number = row_id, self._next_suffix.get(row_id, 2)
        while candidate in self._ids:
            candidate, number = f"{row_id}~{number}", number + 1
        if candidate != row_id:
            self._next_suffix[row_id] = number
        self._ids.add(candidate)
        return candidate
