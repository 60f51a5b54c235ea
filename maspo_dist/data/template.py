"""From a row to the text of its prompt, and what a chat template did to it.

The rule for system messages: a prompt has at most one, and it comes first. The row's own system message is used, even
an empty one; `data.system_prompt` is for the rows without one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from maspo_dist.config import PromptConfig
from maspo_dist.data.chat import TEMPLATE_ERRORS, Chat, ChatTemplate, Tools
from maspo_dist.data.rows import SYSTEM_ROLES, Row
from maspo_dist.errors import DataError

#: Any escape, change of case or cut of white space shows in this text.
_MARK = " \n\x00<'Mark\"&\\\n{é}>\n "


class Renderer:
    """Renders rows as `config.template` says. A chat template is given `tools`, and shows them if it can."""

    def __init__(self, config: PromptConfig, tokenizer: PreTrainedTokenizerBase, tools: Tools = ()) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer, config, tools)
        self._frame = _frame(self._chat("Mark"), self._template) if config.template == "chat" else None

    def texts(self, rows: Sequence[Row]) -> list[str]:
        """The prompts as text, up to the start of the response. Raises DataError if the template refuses a row."""
        return [self._text(row) for row in rows]

    def _text(self, row: Row) -> str:
        config, problem = self._config, row.problem
        if config.template == "chat":
            if self._frame is not None and isinstance(problem, str):
                return f"{self._frame[0]}{problem}{config.problem_suffix}{self._frame[1]}"
            try:
                return self._template.text(self._chat(problem))
            except TEMPLATE_ERRORS as error:
                raise DataError(f"{row.where}: the tokenizer's chat template refuses the prompt: {error}") from None
        if not isinstance(problem, str):
            raise DataError(f"{row.where}: the problem is a list of chat messages, which needs data.template chat")
        problem += config.problem_suffix
        return problem if config.template == "none" else config.template.replace("{problem}", problem)

    def notes(self, row: Row, token_ids: Sequence[int]) -> Iterator[str]:
        """What may be wrong with the prompt of `row`, one sentence each."""
        text, tokenizer = self._text(row), self._tokenizer
        if self._config.template == "chat":
            chat = self._chat(row.problem)
            if text == self._template.text(chat, add_generation_prompt=False):
                yield (
                    "the chat template has no generation prompt: it writes the same text with add_generation_prompt "
                    "and without, so the model is not told that its turn begins"
                )
            for message in chat:
                if message["content"].strip() not in text:
                    yield f"the chat template leaves out the {message['role']} message, or changes its text"
            if chat[0]["role"] in SYSTEM_ROLES and self._system_messages(chat) > 1:
                yield (
                    "the prompt has two system messages: the chat template adds its own to the row's, or to "
                    "data.system_prompt"
                )
        if tokenizer.bos_token_id is not None and list(token_ids[:2]) == [tokenizer.bos_token_id] * 2:
            yield f"the prompt begins with two {tokenizer.bos_token}; write {tokenizer.bos_token} in one place only"
        if tokenizer.unk_token_id is not None and (unknown := list(token_ids).count(tokenizer.unk_token_id)):
            yield f"the tokenizer does not know {unknown} parts of the prompt and writes {tokenizer.unk_token} for them"

    def _system_messages(self, chat: Chat) -> int:
        """How often the template writes what stands before the first message of `chat`, from the role's name on."""
        text = "\n" + self._template.text([{**message, "content": "Mark"} for message in chat])
        before = text.partition("Mark")[0]
        named = before.casefold().rfind(chat[0]["role"])
        # The character before the name tells an opening tag from a closing one: [SYSTEM], [/SYSTEM].
        return text.count(before[named - 1 :]) if named > 0 else 1

    def _chat(self, problem: str | tuple[tuple[str, str], ...]) -> Chat:
        *before, (role, content) = (("user", problem),) if isinstance(problem, str) else problem
        opening = [] if any(role in SYSTEM_ROLES for role, _ in before) else self._template.opening()
        said = (*before, (role, content + self._config.problem_suffix))
        return [*opening, *({"role": role, "content": content} for role, content in said)]


def _frame(chat: Chat, template: ChatTemplate) -> tuple[str, str] | None:
    """What the template writes before and after the last message; None if this depends on the text of the message.

    A template takes longer than the tokenizer. Most templates copy the message without a look at it: then a problem
    that is text needs no template.
    """
    reads = []

    class Opaque(str):
        """Text whose every use but output fails, and is noted in case the template goes on."""

        __slots__ = ()

        def _read(self, *_: Any) -> Any:
            reads.append(True)
            raise TypeError

        def __bool__(self) -> bool:
            return True

        __getattribute__ = __contains__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = _read
        __len__ = __iter__ = __getitem__ = __mul__ = __rmul__ = __mod__ = __format__ = _read

    try:
        text = template.text([*chat[:-1], {**chat[-1], "content": Opaque(_MARK)}])
    except Exception:  # The template reads the message, or refuses it in its own way.
        return None
    before, *after = text.split(_MARK)
    return (before, after[0]) if len(after) == 1 and not reads else None
