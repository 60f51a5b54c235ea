"""Prompts: what rows become, what is refused or noted, and in which words."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from prompt_files import WriteLines, load, text
from transformers import PreTrainedTokenizerFast

from maspo_dist.config import DataConfig
from maspo_dist.data.prompts import ContextLimit, load_prompts
from maspo_dist.demo.model import make_tokenizer
from maspo_dist.errors import DataError


def test_rows_become_prompts_in_the_chat_template(write: WriteLines) -> None:
    path = write(
        {"id": "first", "problem": "1+2", "answer": "3", "source": "addition"}, {"problem": "4+5", "answer": 9}
    )
    first, second = load(path).prompts
    assert text(first.token_ids) == "<|user|>1+2<|assistant|>"
    assert (first.prompt_id, first.reference, first.source) == ("first", "3", "addition")
    assert (second.prompt_id, second.reference, second.source) == ("sums-2", "9", "sums")
    assert first.token_ids.dtype == np.int32


def test_repeated_ids_are_told_apart(write: WriteLines) -> None:
    rows = [{"id": row_id, "problem": "1", "answer": "1"} for row_id in ("a", "a~2", "a", "a", 7, "7")]
    ids = [prompt.prompt_id for prompt in load(write(*rows)).prompts]
    assert ids == ["a", "a~2", "a~3", "a~4", "7", "7~2"]


def test_fields_can_be_renamed_and_nested_and_problems_can_be_messages(write: WriteLines) -> None:
    messages = [
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "2+2"},
    ]
    path = write({"prompt": messages, "reward_model": {"ground_truth": 4}, "kind": "sum"})
    settings = {"problem_field": "prompt", "answer_field": "reward_model.ground_truth", "source_field": "kind"}
    prompt = load(path, **settings).prompts[0]
    assert text(prompt.token_ids) == "<|user|>1+1<|assistant|>2<|end|><|user|>2+2<|assistant|>"
    assert (prompt.reference, prompt.source) == ("4", "sum")
    with pytest.raises(
        DataError, match=r"line 1: the problem is a list of chat messages, which needs data\.template chat"
    ):
        load(path, template="none", **settings)


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([("user", "1+2"), ("assistant", "3")], "line 1: the messages in 'problem' end with a turn of 'assistant'"),
        ([("user", "1+2"), ("system", "Add.")], "end with a turn of 'system'"),
        ([("system", "Add."), ("system", "Box it."), ("user", "1+2")], "more than one system message; merge them"),
        ([("user", "")], r"field 'problem\.content' is empty"),
        ([("user", [{"type": "image"}])], "holds a part of kind 'image'; only text can be trained on"),
    ],
)
def test_messages_that_make_no_prompt_are_refused(
    write: WriteLines, messages: list[tuple[str, object]], sentence: str
) -> None:
    row = {"problem": [{"role": role, "content": content} for role, content in messages], "answer": "3"}
    with pytest.raises(DataError, match=sentence):
        load(write(row))


def test_messages_may_be_kept_as_json_text_and_their_content_in_parts(write: WriteLines) -> None:
    chat = [{"role": "user", "content": "17+25"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "17"}, {"type": "text", "text": "+25"}]}]
    path = write({"problem": json.dumps(chat), "answer": "42"}, {"problem": parts, "answer": "42"})
    loaded = load(path)
    assert [text(prompt.token_ids) for prompt in loaded.prompts] == ["<|user|>17+25<|assistant|>"] * 2
    assert loaded.notes[1:] == ("1 of 2 rows keep their messages as JSON text in problem; they are read as messages",)
    path = write({"problem": str(chat), "answer": "42"})
    with pytest.raises(DataError, match="holds chat messages as text that is not JSON; store them as a list"):
        load(path)


def test_repeated_prompts_ids_and_contradicting_answers_are_counted(write: WriteLines) -> None:
    rows = [("1+2", "3"), ("1+2", "3"), ("1+2", "4"), ("2+2", "4"), ("2+2", "5"), ("5", "5")]
    path = write(*({"problem": problem, "answer": answer, "id": 0} for problem, answer in rows))
    assert load(path).notes == (
        "3 of 6 prompts are distinct, so an epoch takes each 2 times",
        f"2 prompts have rows with different answers; the first is {path}, line 3: '4' and '3'",
        "1 ids stand in several rows; the repeats of the first are called 0~2, 0~3, …",
    )
    assert load(write({"problem": "1", "answer": "1"})).notes == ()


def test_one_prompt_per_source_is_kept_as_the_model_sees_it(write: WriteLines) -> None:
    path = write(
        {"problem": "1+2", "answer": "3", "source": "sums"},
        {"problem": "7", "answer": "7", "source": "digits"},
        {"problem": "3+4", "answer": "7", "source": "sums"},
    )
    assert [(e.source, e.prompts, e.text, e.tokens, e.notes) for e in load(path).examples] == [
        ("sums", 2, "<|user|>1+2<|assistant|>", 5, ()),
        ("digits", 1, "<|user|>7<|assistant|>", 3, ()),
    ]


def test_many_rows_of_one_id_load_in_linear_time(write: WriteLines) -> None:
    path = write(*({"id": "0", "problem": f"{i}+1", "answer": "1"} for i in range(20_000)))
    started = time.process_time()
    prompts = load(path).prompts
    # Quadratic time would be minutes.
    assert time.process_time() - started < 30
    assert (prompts[-1].prompt_id, len({prompt.prompt_id for prompt in prompts})) == ("0~20000", 20_000)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_prompts_are_the_same_however_the_file_is_cut_into_chunks(
    write: WriteLines, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    problems = ["1", "2", "1", "1" * 30, "3", "2", "1" * 30, "4", "1", "5"]
    path = write(*({"id": "same", "problem": problem, "answer": str(i)} for i, problem in enumerate(problems)))

    def loaded() -> tuple[list[tuple[str, str, list[int]]], tuple[str, ...], int]:
        found = load(path, max_prompt_tokens=20, overlong_prompts="drop")
        prompts = [(prompt.prompt_id, prompt.reference, prompt.token_ids.tolist()) for prompt in found.prompts]
        return prompts, found.notes, found.dropped_overlong

    whole = loaded()
    assert [text(np.array(ids)) for _, _, ids in whole[0]] == [
        f"<|user|>{problem}<|assistant|>" for problem in problems if len(problem) == 1
    ]
    monkeypatch.setattr("maspo_dist.data.prompts._CHUNK_ROWS", chunk)
    assert loaded() == whole


class OwnTokenizer(PreTrainedTokenizerFast):
    """A tokenizer with a way of its own to encode."""

    def _encode_plus(self, *texts: object, **settings: object) -> object:
        encoded = super()._encode_plus(*texts, **settings)
        encoded["input_ids"] = [[*ids, 7] for ids in encoded["input_ids"]]
        return encoded


@pytest.mark.parametrize("template", ["chat", "none"])
@pytest.mark.parametrize("kind", [PreTrainedTokenizerFast, OwnTokenizer])
def test_token_ids_are_those_of_the_tokenizer_whatever_it_was_set_to(
    write: WriteLines, template: str, kind: type[PreTrainedTokenizerFast]
) -> None:
    problems = ["1+2", "é<|user|>3", "12345"]
    path = write(*({"problem": problem, "answer": "3"} for problem in problems))
    inner = make_tokenizer()
    tokenizer = kind(
        tokenizer_object=inner.backend_tokenizer, pad_token="<|pad|>", unk_token="<|unknown|>", eos_token="<|end|>"
    )
    tokenizer.chat_template = inner.chat_template
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    loaded = load_prompts([path], DataConfig(train=[path], template=template), tokenizer).prompts
    texts = [f"<|user|>{problem}<|assistant|>" if template == "chat" else problem for problem in problems]
    wanted = tokenizer(texts, add_special_tokens=template == "none")["input_ids"]
    assert [prompt.token_ids.tolist() for prompt in loaded] == wanted
    assert min(map(len, wanted)) > 2


def test_a_long_load_shows_its_progress(
    write: WriteLines, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maspo_dist.data.prompts._PROGRESS_S", -1.0)
    path = write({"problem": "1", "answer": "1"})
    load(path)
    assert capsys.readouterr().err == f"{path}, line 1: 1 rows are loaded\n"


def test_long_prompts_are_refused_or_dropped(write: WriteLines) -> None:
    path = write({"problem": "1+2", "answer": "3"}, {"problem": "1" * 30, "answer": "3"})
    with pytest.raises(DataError, match=r"line 2: the prompt has 32 tokens, over data\.max_prompt_tokens \(20\)"):
        load(path, max_prompt_tokens=20)
    dropped = load(path, max_prompt_tokens=20, overlong_prompts="drop")
    assert (len(dropped.prompts), dropped.dropped_overlong) == (1, 1)
    with pytest.raises(DataError, match="all 2 prompts are too long"):
        load(path, max_prompt_tokens=1, overlong_prompts="drop")


def test_a_prompt_that_the_model_cannot_hold_is_refused(write: WriteLines) -> None:
    path = write({"problem": "1" * 30, "answer": "3"})
    assert load(path, ContextLimit(context_tokens=52, response_tokens=20)).prompts
    with pytest.raises(DataError, match=r"32 tokens and a response of 20 are over the model's context \(51\)"):
        load(path, ContextLimit(context_tokens=51, response_tokens=20))
