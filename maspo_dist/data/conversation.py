"""How a conversation goes on in tokens: what a chat template writes between one turn and the next.

The tokens of a response are only ever appended to. An observation is rendered by the chat template behind a mark that
stands for the model's turn; only the text behind the mark is tokenized, once. What was sampled is never decoded and
encoded again.

    rendered    <|user|>x<|assistant|>MARK<|end|><|user|>1332<|assistant|>
    delta                                 <|end|><|user|>1332<|assistant|>
    appended                                     <|user|>1332<|assistant|>      the model sampled <|end|> itself
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from maspo_dist.data.chat import TEMPLATE_ERRORS, Chat, ChatTemplate, first_difference
from maspo_dist.errors import ModelError
from maspo_dist.types import IntArray

if TYPE_CHECKING:
    # Rollout workers without an environment do without transformers.
    from transformers import PreTrainedTokenizerBase

#: Role of what is heard. auto is tool where the template has such a role, else user.
HeardRole = Literal["auto", "tool", "user"]

_MARK = "Mark0f7urn"
_PLAIN, _THOUGHT = "So be it.", "<think>\nIt may be.\n</think>\n\nSo be it."
#: Observations on which the start-up check compares tokens.
_AWKWARD = ("1332", " a b", "\n\nline\n", "", "«é»", "x" * 300, "{\"a\": 'b'}\nC:\\d <e> & f")
#: What stands for the middle of a long observation: the first mark that the limit leaves room for.
_MARKS = ("\n[… {} characters left out …]\n", "\n…\n")
#: Characters that are tokenized per kept token of a long observation.
_CHARACTERS_PER_TOKEN = 16
_NOT_SHOWN = "(The text is not shown: it would break the conversation.)"
_EXCERPT = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """token_ids i32[H] follow a turn end.

    broken   special tokens that the observation spelled; an observation that is not shown counts as one more
    """

    token_ids: IntArray
    broken: int


class Continuation:
    """Continues the conversations of one tokenizer.

    turn_end    the token that must have ended the turn before
    turn_start  the text with which every turn but the first begins
    """

    def __init__(self, template: ChatTemplate, role: Literal["tool", "user"], max_tokens: int) -> None:
        """`max_tokens` bounds an observation. Raises _NoDeltaError where the template has no delta for `role`."""
        tokenizer = template.tokenizer
        self.role = role
        self._template = template
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        spelled = sorted({text for text in special | set(tokenizer.all_special_tokens) if len(text) > 1}, key=len)
        self._spelled = re.compile("|".join(map(re.escape, reversed(spelled))) or r"(?!)")
        added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        # The unknown token stands for text of any kind.
        self._special_ids = (added | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id}
        frame = _encode(tokenizer, _delta(template, role, "x", turns=1))
        self.turn_end = frame[0]
        self.turn_start = template.turn_start(_chat(template, role, "x", turns=1, said="x"))
        self._frame_specials = self._specials(frame)
        self._not_shown = _encode(tokenizer, _delta(template, role, _NOT_SHOWN, turns=1))

    def heard(self, observation: str) -> Heard:
        """The tokens between a turn end and the start of the next turn.

        A special token that `observation` spells is broken by a space, so that no tool can forge a turn. An observation
        of more than `max_tokens` loses its middle; the mark in its place counts. An observation that the template
        cannot write, or writes in another way, is not shown.
        """
        # Half of a surrogate pair, which JSON can hold, is no text to a tokenizer.
        text = observation.encode("utf-8", "replace").decode()
        text, broken = self._spelled.subn(lambda found: f"{found[0][0]} {found[0][1:]}", text)
        try:
            ids = _encode(self._tokenizer, _delta(self._template, self.role, self._shortened(text), turns=1))
        except _NoDeltaError:
            ids = None
        # A tokenizer that normalizes text can turn another spelling into a special token.
        if ids is None or self._specials(ids) != self._frame_specials:
            ids = self._not_shown
            broken += 1
        return Heard(token_ids=np.asarray(ids[1:], np.int32), broken=broken)

    def said(self, token_ids: Sequence[int]) -> str:
        """The text of a turn; special tokens are kept, since the tags of tools can be such tokens."""
        text = self._tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)

    def _specials(self, ids: Sequence[int]) -> list[int]:
        return [token for token in ids if token in self._special_ids]

    def _shortened(self, text: str) -> str:
        most = self._max_tokens
        if len(text) <= 2 * most * _CHARACTERS_PER_TOKEN and len(_encode(self._tokenizer, text)) <= most:
            return text
        for mark in _MARKS:
            kept = most
            while kept > 0:
                shown = self._without_middle(text, kept, mark)
                excess = len(_encode(self._tokenizer, shown)) - most
                if excess <= 0:
                    return shown
                kept -= excess
        return ""

    def _without_middle(self, text: str, kept: int, mark: str) -> str:
        """`kept` tokens of the start and the end of `text`, with `mark` between them."""
        reach = self._max_tokens * _CHARACTERS_PER_TOKEN
        start = _encode(self._tokenizer, text[:reach])[: kept // 2]
        end = _encode(self._tokenizer, text[-reach:])[-(kept - kept // 2) :]
        shown = [self.said(ids).strip("\ufffd") for ids in (start, end)]
        return mark.format(len(text) - len(shown[0]) - len(shown[1])).join(shown)


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateFinding:
    """What a template does with the turns of one role.

    kind    exact: the whole conversation, rendered again, is the stream that the model saw
            rewrites: the template renders earlier turns in another way than the model saw
            refused: the template gives no delta
    reason  a clause; "" for exact
    """

    kind: Literal["exact", "rewrites", "refused"]
    reason: str = ""


def inspect_template(template: ChatTemplate, end_ids: Set[int], role: Literal["tool", "user"]) -> TemplateFinding:
    """Checks the delta of `role`; `end_ids` are the tokens that end a response of the model."""
    tokenizer = template.tokenizer
    try:
        for observation in _AWKWARD:
            early, late = (_delta(template, role, observation, turns=turns) for turns in (1, 3))
            if early != late:
                return TemplateFinding(kind="refused", reason="what it writes after a turn depends on the turns before")
            ids, whole = _encode(tokenizer, early), _encode(tokenizer, _rendered(template, role, observation, turns=3))
            if not ids or ids[0] not in end_ids:
                start = tokenizer.decode(ids[:1])
                return TemplateFinding(
                    kind="refused", reason=f"it goes on after a turn by {start!r}, which does not end a response"
                )
            if whole[-len(ids) :] != ids:
                return TemplateFinding(
                    kind="refused", reason=f"{observation[:_EXCERPT]!r} has other tokens in a longer conversation"
                )
        difference = next(filter(None, (_rewritten(template, role, said) for said in (_PLAIN, _THOUGHT))), None)
    except _NoDeltaError as error:
        return TemplateFinding(kind="refused", reason=str(error))
    return TemplateFinding(kind="rewrites", reason=difference) if difference else TemplateFinding(kind="exact")


def continuation(
    template: ChatTemplate, end_ids: Set[int], role: HeardRole, max_tokens: int
) -> tuple[Continuation, str | None]:
    """How conversations go on, and a sentence if `template` rewrites earlier turns.

    Raises ModelError, naming the other role where that role works, when the template gives no delta for `role`.
    """
    tokenizer = template.tokenizer
    if not tokenizer.chat_template:
        raise ModelError(
            f"environment: the tokenizer {tokenizer.name_or_path} has no chat template, which says how a conversation "
            "goes on after a turn: use a model with a chat template"
        )
    findings = {one: inspect_template(template, end_ids, one) for one in ("tool", "user")}
    works = [one for one in findings if findings[one].kind != "refused"]
    chosen = role if role != "auto" else next(iter(works), "user")
    found = findings[chosen]
    if found.kind == "refused":
        fix = f"set environment.role to {works[0]}" if works else "use a model with another chat template"
        raise ModelError(
            f"environment.role {role}: the chat template of {tokenizer.name_or_path} cannot continue a conversation by "
            f"a message of the role {chosen} ({found.reason}): {fix}"
        )
    note = None
    if found.kind == "rewrites":
        note = (
            f"the chat template rewrites earlier turns ({found.reason}): training sees what the engine saw, but a chat "
            "server would show the model the rewritten turns"
        )
    return Continuation(template, "tool" if chosen == "tool" else "user", max_tokens), note


class _NoDeltaError(Exception):
    """The message is a clause that says why."""


def _rendered(template: ChatTemplate, role: str, observation: str, *, turns: int, said: str = _MARK) -> str:
    return _applied(template, _chat(template, role, observation, turns=turns, said=said))


def _chat(template: ChatTemplate, role: str, observation: str, *, turns: int, said: str) -> Chat:
    """A conversation of `turns` turns; the last turn is `said`, and `observation` comes after it."""
    chat = [*template.opening(), {"role": "user", "content": "What is it?"}]
    for number in range(turns):
        is_last = number == turns - 1
        chat.append({"role": "assistant", "content": said if is_last else f"Turn {number}."})
        chat.append({"role": role, "content": observation if is_last else f"Heard {number}."})
    return chat


def _applied(template: ChatTemplate, chat: Chat) -> str:
    try:
        return template.text(chat)
    except TEMPLATE_ERRORS as error:
        raise _NoDeltaError(f"it refuses the message: {error}") from None


def _delta(template: ChatTemplate, role: str, observation: str, *, turns: int) -> str:
    mark = _MARK
    while mark in observation:
        mark += _MARK
    _, *after = _rendered(template, role, observation, turns=turns, said=mark).split(mark)
    if len(after) != 1:
        raise _NoDeltaError(f"it writes a turn {len(after)} times")
    if observation.strip() not in after[0]:
        raise _NoDeltaError("it leaves out the message, rewrites it, or puts it elsewhere")
    return after[0]


def _rewritten(template: ChatTemplate, role: str, said: str) -> str | None:
    """The first place where three turns rendered whole differ from what the model saw; None where they are equal."""
    chat = [*template.opening(), {"role": "user", "content": "What is it?"}]
    stream = _applied(template, chat)
    for number in range(3):
        stream += said + _delta(template, role, f"Heard {number}.", turns=1)
        chat += [{"role": "assistant", "content": said}, {"role": role, "content": f"Heard {number}."}]
    whole = _applied(template, chat)
    if whole == stream:
        return None
    place = first_difference(whole, stream)
    texts = (text[place : place + _EXCERPT] for text in (whole, stream))
    return "after three turns it writes {!r} where the model saw {!r}".format(*texts)


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return ids
