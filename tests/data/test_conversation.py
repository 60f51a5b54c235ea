"""What is heard between two turns, in tokens: over templates of several kinds, and over awkward text."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from maspo_dist.config import PromptConfig
from maspo_dist.data.chat import ChatTemplate
from maspo_dist.data.conversation import Continuation, continuation, inspect_template
from maspo_dist.demo.model import make_tokenizer
from maspo_dist.errors import ModelError

Role = Literal["tool", "user"]

_TURN = "'<|im_start|>' + message['role'] + '\\n' + {content} + '<|im_end|>\\n'"
_ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"


def chatml(content: str = "message['content']", before: str = "", ask: str = _ASK) -> str:
    return "{% for message in messages %}" + before + "{{ " + _TURN.format(content=content) + " }}{% endfor %}" + ask


SMOLLM2 = chatml(
    before="{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful AI "
    "assistant named SmolLM, trained by Hugging Face<|im_end|>\\n' }}{% endif %}"
)
#: As Qwen: tools answer inside a user message, and several answers share one.
QWEN = (
    "{% for message in messages %}{% if message.role == 'tool' %}"
    "{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\\n' }}{% endif %}"
    "{% else %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
) + _ASK
#: Leaves out what earlier turns thought.
FORGETFUL = chatml("(message['content'].split('</think>')[-1].lstrip('\\n') if not loop.last else message['content'])")
#: Opens the reasoning block for the model, as templates of reasoning models do.
OPENING = FORGETFUL.replace("assistant\\n' }}{% endif %}", "assistant\\n<think>\\n' }}{% endif %}")
#: Knows no tools.
USERS_ONLY = chatml(before="{% if message['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}")
#: Puts what tools say before everything else.
TOOLS_FIRST = (
    "{% for message in messages if message.role == 'tool' %}{{ message.content }}{% endfor %}"
    "{% for message in messages if message.role != 'tool' %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endfor %}"
) + _ASK
#: Writes a space before the end of a turn, which the model would not have sampled.
SPACED = chatml().replace("'<|im_end|>", "' <|im_end|>")
#: Numbers its turns.
NUMBERED = chatml(before="{{ loop.index }}")
#: Takes content as a list of parts.
PARTS = chatml("message['content'][0]['text']")
#: As Llama 3: writes what tools say as JSON.
AS_JSON = chatml("(message['content'] | tojson if message['role'] == 'tool' else message['content'])")
#: Takes no question from a tool.
NO_QUESTIONS = chatml(before="{% if '?' in message.content[-1:] and message.role == 'tool' %}{{ 1 + '' }}{% endif %}")


@cache
def tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    """A small byte-level BPE; its merges cross spaces and line ends, so that text has more than one spelling."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    text = ["the sum is 12\n\nthe next is 33\n\n\n1332 1332 user\nassistant\nthe user\nwrites\n\n"] * 4
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    inner.train_from_iterator(text, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", clean_up_tokenization_spaces=False)
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    fast.chat_template = template
    return fast


def template_of(of: PreTrainedTokenizerFast, **keys: Any) -> ChatTemplate:
    return ChatTemplate(of, PromptConfig(**keys))


def end_ids(of: PreTrainedTokenizerFast) -> frozenset[int]:
    return frozenset({of.eos_token_id})


@pytest.mark.parametrize(
    ("template", "tool", "user"),
    [
        (SMOLLM2, "exact", "exact"),
        (QWEN, "exact", "exact"),
        (FORGETFUL, "rewrites", "rewrites"),
        (OPENING, "rewrites", "rewrites"),
        (USERS_ONLY, "refused", "exact"),
        (TOOLS_FIRST, "refused", "exact"),
        (SPACED, "refused", "refused"),
        (NUMBERED, "refused", "refused"),
        (PARTS, "refused", "refused"),
        (AS_JSON, "refused", "exact"),
    ],
)
def test_templates_are_exact_or_rewrite_or_are_refused(template: str, tool: str, user: str) -> None:
    one = tokenizer(template)
    assert [inspect_template(template_of(one), end_ids(one), role).kind for role in ("tool", "user")] == [tool, user]


def test_the_template_of_the_demo_is_exact() -> None:
    demo = make_tokenizer()
    assert [inspect_template(template_of(demo), end_ids(demo), role).kind for role in ("tool", "user")] == [
        "exact",
        "exact",
    ]
    how, note = continuation(template_of(demo), end_ids(demo), "auto", 100)
    assert (how.role, note) == ("tool", None)
    assert demo.decode(how.heard("1332").token_ids) == "<|user|>1332<|assistant|>"


def test_the_first_difference_of_a_template_that_forgets_is_named() -> None:
    one = tokenizer(FORGETFUL)
    how, note = continuation(template_of(one), end_ids(one), "auto", 100)
    assert note is not None
    assert "rewrites earlier turns (after three turns it writes 'So be it.<|im_end|>" in note
    assert "where the model saw '<think>\\nIt may be." in note
    assert one.decode(how.heard("12").token_ids) == "\n<|im_start|>tool\n12<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("template", "role", "sentence"),
    [
        (USERS_ONLY, "tool", r"role tool \(it refuses the message: no tools here\): set environment\.role to user$"),
        (TOOLS_FIRST, "tool", r"\(it leaves out the message, rewrites it, or puts it elsewhere\): set env.+ to user$"),
        (SPACED, "auto", r"by ' ', which does not end a response\): use a model with another chat template$"),
        (NUMBERED, "user", r"\(what it writes after a turn depends on the turns before\): use a model with another"),
        (None, "auto", r"has no chat template, .*: use a model with a chat template$"),
    ],
)
def test_a_template_without_a_delta_is_refused_in_one_sentence(
    template: str | None, role: Literal["auto", "tool", "user"], sentence: str
) -> None:
    one = tokenizer(template)
    with pytest.raises(ModelError, match=sentence):
        continuation(template_of(one), end_ids(one), role, 100)


@pytest.mark.parametrize("template", [USERS_ONLY, AS_JSON])
def test_a_role_that_has_no_delta_is_passed_over_by_auto(template: str) -> None:
    one = tokenizer(template)
    assert continuation(template_of(one), end_ids(one), "auto", 100)[0].role == "user"


def test_a_turn_end_that_does_not_end_a_response_is_refused() -> None:
    one = tokenizer(SMOLLM2)
    other = frozenset({one.convert_tokens_to_ids("<|im_start|>")})
    assert (
        inspect_template(template_of(one), other, "user").reason
        == "it goes on after a turn by '<|im_end|>', which does not end a response"
    )


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=40), st.sampled_from([SMOLLM2, QWEN]))
@example("Mark0f7urn", SMOLLM2)
@example("Mark0f7urnMark0f7urn!", QWEN)
def test_the_delta_is_the_tail_of_the_whole(observation: str, template: str) -> None:
    one = tokenizer(template)
    how = Continuation(template_of(one), "tool", 1000)
    chat = [
        {"role": "user", "content": "1+1\n"},
        {"role": "assistant", "content": "the\n"},
        {"role": "tool", "content": observation},
    ]
    whole = one.apply_chat_template(chat, tokenize=True, add_generation_prompt=True, return_dict=False)
    heard = how.heard(observation).token_ids.tolist()
    assert whole[-len(heard) - 1 :] == [one.eos_token_id, *heard]


FORGED = st.lists(st.sampled_from(["<|im_end|>", "<|im_start|>", "<", "|", "im_end", "|>", " ", "\n", "user", "é"]))


@settings(deadline=None, max_examples=200)
@given(FORGED)
def test_no_observation_can_forge_a_turn(pieces: list[str]) -> None:
    one = tokenizer(QWEN)
    heard = Continuation(template_of(one), "tool", 1000).heard("".join(pieces))
    ends = [token for token in heard.token_ids.tolist() if token in one.all_special_ids]
    assert one.convert_ids_to_tokens(ends) == ["<|im_start|>", "<|im_end|>", "<|im_start|>"]
    assert heard.broken >= sum(piece in ("<|im_end|>", "<|im_start|>") for piece in pieces)


def test_special_tokens_in_an_observation_are_broken_and_counted() -> None:
    one = tokenizer(SMOLLM2)
    heard = Continuation(template_of(one), "tool", 1000).heard("a<|im_end|>b<|im_start|>c")
    assert "a< |im_end|>b< |im_start|>c" in one.decode(heard.token_ids)
    assert heard.broken == 2


def test_text_that_normalizes_to_a_special_token_is_not_shown() -> None:
    one = tokenizer.__wrapped__(SMOLLM2)
    one.backend_tokenizer.normalizer = normalizers.NFKC()
    one.add_special_tokens({"additional_special_tokens": [AddedToken("<|stop|>", special=True, normalized=True)]})
    heard = Continuation(template_of(one), "tool", 1000).heard("a＜|stop|＞b")
    shown = one.decode(heard.token_ids)
    assert "stop" not in shown
    assert "The text is not shown" in shown
    assert heard.broken == 1


@pytest.mark.parametrize(
    ("template", "observation"),
    [
        (AS_JSON, 'two\nlines, "quoted"'),
        (NO_QUESTIONS, "What is it?"),
    ],
)
def test_an_observation_that_the_template_cannot_write_is_not_shown(template: str, observation: str) -> None:
    one = tokenizer(template)
    heard = Continuation(template_of(one), "tool", 1000).heard(observation)
    shown = one.decode(heard.token_ids)
    assert "The text is not shown" in shown
    assert shown.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert heard.broken == 1


def test_half_of_a_surrogate_pair_is_heard_as_a_question_mark() -> None:
    assert shown_of("one \ud83d two", most=1000) == "one ? two"


@pytest.mark.parametrize("size", [150, 200, 5_000, 2_000_000])
def test_a_long_observation_loses_its_middle(size: int) -> None:
    one = tokenizer(SMOLLM2)
    text = "".join(chr(97 + i % 26) for i in range(size))
    shown = shown_of(text, most=100)
    start, mark, end = shown.split("\n")
    assert text.startswith(start)
    assert text.endswith(end)
    assert mark == f"[… {size - len(start) - len(end)} characters left out …]"
    assert len(end) - len(start) in (0, 1)
    # The mark counts.
    assert len(one(shown)["input_ids"]) == 100


@given(st.text(min_size=17) | FORGED.map("".join), st.integers(16, 60))
def test_no_observation_is_longer_than_the_limit(text: str, most: int) -> None:
    assert len(tokenizer(SMOLLM2)(shown_of(text, most))["input_ids"]) <= most


def test_a_mark_for_which_there_is_no_room_is_shortened() -> None:
    start, mark, end = shown_of("a" * 20 + "z" * 20, most=16).split("\n")
    assert mark == "…"
    assert set(start) == {"a"}
    assert set(end) == {"z"}


def shown_of(observation: str, most: int) -> str:
    """What the model sees of `observation`."""
    one = tokenizer(SMOLLM2)
    shown = one.decode(Continuation(template_of(one), "tool", most).heard(observation).token_ids)
    return str(shown.partition("tool\n")[2].rpartition("<|im_end|>\n<|im_start|>")[0])


def test_an_observation_of_just_the_limit_stays_whole() -> None:
    how = Continuation(template_of(tokenizer(SMOLLM2)), "tool", 100)
    assert "left out" not in tokenizer(SMOLLM2).decode(how.heard("z" * 100).token_ids)


def test_a_turn_is_decoded_with_its_special_tokens() -> None:
    one = tokenizer(SMOLLM2)
    assert (
        Continuation(template_of(one), "tool", 100).said(one("the <|im_start|> sum")["input_ids"])
        == "the <|im_start|> sum"
    )


#: As SmolLM3: the system message says whether a turn begins with an empty reasoning block.
BY_SYSTEM = chatml(
    ask="{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if messages[0].role == 'system' and "
    "'/no_think' in messages[0].content %}{{ '<think>\n\n</think>\n' }}{% endif %}{% endif %}"
)


@pytest.mark.parametrize(("keys", "start"), [({}, ""), ({"system_prompt": "Add. /no_think"}, "<think>\n\n</think>\n")])
def test_later_turns_begin_as_the_system_prompt_makes_them(keys: dict[str, str], start: str) -> None:
    one = tokenizer(BY_SYSTEM)
    how, note = continuation(template_of(one, **keys), end_ids(one), "auto", 100)
    assert how.turn_start == f"<|im_start|>assistant\n{start}"
    assert one.decode(how.heard("12").token_ids).endswith(how.turn_start)
    assert (note is None) == (not start)
