"""From the tokens of a response to the text that is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Rollout workers import it with their engine.
    from transformers import PreTrainedTokenizerBase


def response_decoder(tokenizer: PreTrainedTokenizerBase, tags: Iterable[str]) -> Callable[[Sequence[int]], str]:
    """A function from the tokens of a response to its text.

    The text leaves out special tokens, but keeps a special token that is one of `tags` or a part of one. `tags` are the
    opening and the closing reasoning tags: in a text without them, reasoning would read as the answer.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()  # the tokenizers of Mistral have none
    texts = {str(token) for token in added if token.special} | set(tokenizer.all_special_tokens)
    names = [tag.casefold() for tag in tags]
    special_ids = {text: int(tokenizer.convert_tokens_to_ids(text)) for text in texts}
    kept = {number for text, number in special_ids.items() if any(text.casefold() in name for name in names)}
    plain = partial(tokenizer.decode, skip_special_tokens=True)
    if not kept:
        return plain
    dropped = set(special_ids.values()) - kept

    def decode(token_ids: Sequence[int]) -> str:
        if kept.isdisjoint(token_ids):
            return str(plain(token_ids))
        shown = [token for token in token_ids if token not in dropped]
        return str(tokenizer.decode(shown, skip_special_tokens=False))

    return decode
