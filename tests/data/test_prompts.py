"""Rows and prompts: what is read, what is refused, and in which words."""

from __future__ import annotations

import json
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from transformers import PreTrainedTokenizerFast

from maspo_dist.config import DataConfig, PromptConfig
from maspo_dist.data.prompts import ContextLimit, PromptSet, load_prompts
from maspo_dist.data.rows import read_rows
from maspo_dist.data.template import Renderer
from maspo_dist.demo.model import make_tokenizer
from maspo_dist.errors import DataError, ModelError

CONFIG = PromptConfig()
TOKENIZER = make_tokenizer()

WriteLines = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> WriteLines:
    """Writes rows (objects, or lines as they stand) to `sums.jsonl`."""

    def write_lines(*rows: object) -> str:
        path = tmp_path / "sums.jsonl"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return str(path)

    return write_lines


def load(path: str, limit: ContextLimit | None = None, **settings: object) -> PromptSet:
    config = DataConfig.model_validate({"train": [path], **settings})
    return load_prompts([path], config, TOKENIZER, limit)


def text(ids: np.ndarray) -> str:
    return str(TOKENIZER.decode(ids.tolist()))


def test_rows_become_prompts_in_the_chat_template(write: WriteLines) -> None:
    path = write(
        {"id": "first", "problem": "1+2", "answer": "3", "source": "addition"}, {"problem": "4+5", "answer": 9}
    )
    first, second = load(path).prompts
    assert text(first.token_ids) == "<|user|>1+2<|assistant|>"
    assert (first.prompt_id, first.reference, first.source) == ("first", "3", "addition")
    assert (second.prompt_id, second.reference, second.source) == ("sums-2", "9", "sums")
    assert first.token_ids.dtype == np.int32


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"template": "none"}, "1+2"),
        ({"template": "Q: {problem}={x}"}, "Q: 1+2={x}"),
        ({"template": "none", "problem_suffix": "\nBox it."}, "1+2\nBox it."),
        ({"system_prompt": "Add.", "problem_suffix": "!"}, "<|user|>Add.<|user|>1+2!<|assistant|>"),
    ],
)
def test_each_template_gives_its_prompt(write: WriteLines, settings: dict[str, object], expected: str) -> None:
    prompts = load(write({"problem": "1+2", "answer": "3"}), **settings).prompts
    assert text(prompts[0].token_ids) == expected


@pytest.mark.parametrize(
    ("written", "reference"),
    [
        ("12", "12"),
        ("1.50", "1.50"),
        ("-3e-8", "-3e-8"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
    ],
)
def test_number_answers_are_taken_as_written(write: WriteLines, written: str, reference: str) -> None:
    assert load(write(f'{{"problem": "x", "answer": {written}}}')).prompts[0].reference == reference


def test_blank_lines_count_and_other_line_separators_do_not_end_lines(write: WriteLines) -> None:
    path = write("", '{"problem": "a\u2028b\x85c", "answer": "1"}', "", {"problem": "b", "answer": "2"})
    assert [row.row_id for row in read_rows(path, CONFIG)] == ["sums-2", "sums-4"]


def test_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "bom.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"problem": "a", "answer": "1"}\r\n{"problem": "b", "answer": "2"}\r\n')
    assert [row.problem for row in read_rows(str(path), CONFIG)] == ["a", "b"]


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


def test_parquet_reads_as_jsonl_does(tmp_path: Path) -> None:
    path = tmp_path / "sums.parquet"
    table = pyarrow.table({"problem": ["1+2", "4+5"], "answer": [3, 9], "source": ["addition", None]})
    pyarrow.parquet.write_table(table, path)
    first, second = load(str(path)).prompts
    assert (first.prompt_id, first.reference, first.source) == ("sums-1", "3", "addition")
    assert (second.prompt_id, second.reference, second.source) == ("sums-2", "9", "sums")


REFUSED_LINES = [
    ('{"problem": "1', r"line 2: not JSON at column 13 \(Unterminated string starting\)"),
    ('{"problem": "1", "answer": NaN}', r"line 2: not JSON at column 1 \(NaN is not a number in JSON\)"),
    ('["1+2", "3"]', "line 2: a list instead of an object with fields"),
    (
        '{"problem": "1+2", "solution": "3", "id": 4}',
        "line 2: no field 'answer'; the row has problem, solution, id: set data.answer_field",
    ),
    (
        '{"question": "1+2", "answer": "3"}',
        "line 2: no field 'problem'; the row has question, answer: set data.problem_field",
    ),
    (
        r'{"prob\nlem": "1+2", "answer": "3"}',
        r"line 2: no field 'problem'; the row has 'prob\\nlem', answer: set data.problem_field",
    ),
    ('{"problem": "1+2", "answer": null}', "line 2: field 'answer' is null instead of text or a number"),
    ('{"problem": "1+2", "answer": true}', "line 2: field 'answer' is true instead"),
    ('{"problem": "1+2", "answer": []}', "line 2: field 'answer' is an empty list"),
    ('{"problem": "1+2", "answer": {"x": 1}}', "line 2: field 'answer' is an object instead"),
    ('{"problem": "1+2", "answer": "  "}', "line 2: field 'answer' is empty"),
    ('{"problem": "", "answer": "3"}', "line 2: field 'problem' is empty"),
    ('{"problem": [], "answer": "3"}', "line 2: field 'problem' is an empty list"),
    ('{"problem": ["1+2"], "answer": "3"}', "line 2: field 'problem' is a list, but not of chat messages"),
    ('{"problem": "\\ud800", "answer": "3"}', "line 2: field 'problem' holds half a surrogate pair"),
    ("[" * 200_000, "line 2: nested too deeply"),
]


@pytest.mark.parametrize(("line", "sentence"), REFUSED_LINES, ids=[line[:34] for line, _ in REFUSED_LINES])
def test_a_bad_row_is_named_by_file_and_line(write: WriteLines, line: str, sentence: str) -> None:
    path = write({"problem": "1+2", "answer": "3"}, line)
    with pytest.raises(DataError, match=sentence) as caught:
        load(path)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_suggests_the_nearest_name(write: WriteLines, tmp_path: Path) -> None:
    path = write({"problem": "1", "answer": "1"})
    with pytest.raises(DataError, match=r"sum\.jsonl does not exist; did you mean .*sums\.jsonl\?"):
        load(path.replace("sums", "sum"))
    with pytest.raises(DataError, match="there is no folder"):
        load(str(tmp_path / "nowhere" / "sums.jsonl"))
    with pytest.raises(DataError, match="is a folder"):
        load(str(tmp_path))


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    binary = tmp_path / "weights.bin"
    binary.write_bytes(b"\x01\xff\x00\x80" * 10)
    with pytest.raises(DataError, match="not UTF-8"):
        load(str(binary))
    parquet = tmp_path / "broken.parquet"
    parquet.write_bytes(b"PAR1 this is none")
    with pytest.raises(DataError, match=r"broken\.parquet cannot be read: Parquet magic bytes"):
        load(str(parquet))


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


def test_a_rows_own_system_message_is_used_even_an_empty_one_and_the_configured_one_for_other_rows(
    write: WriteLines,
) -> None:
    user = {"role": "user", "content": "1+2"}
    path = write(
        {"problem": [{"role": "system", "content": "In words."}, user], "answer": "3"},
        {"problem": [{"role": "system", "content": ""}, user], "answer": "3"},
        {"problem": [user], "answer": "3"},
    )
    loaded = load(path, system_prompt="In digits.")
    assert [text(prompt.token_ids) for prompt in loaded.prompts] == [
        "<|user|>In words.<|user|>1+2<|assistant|>",
        "<|user|><|user|>1+2<|assistant|>",
        "<|user|>In digits.<|user|>1+2<|assistant|>",
    ]
    assert loaded.notes == (
        "2 of 3 rows have a system message of their own, which is used instead of data.system_prompt",
    )


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


@pytest.mark.parametrize(
    ("template", "problem", "note"),
    [
        ("{% for m in messages %}<|user|>{{ m.content }}{% endfor %}", "1+2", "has no generation prompt"),
        ("<|user|>1{% if add_generation_prompt %}<|assistant|>{% endif %}", "x", "leaves out the user message"),
        (
            "{{ messages[0].content }}{% if add_generation_prompt %}<|assistant|>{% endif %}",
            "½",
            "does not know 1 parts",
        ),
        ("{{ bos_token }}{{ bos_token }}{{ messages[0].content }}{{ add_generation_prompt }}", "1", "with two <|pad|>"),
    ],
)
def test_a_note_says_what_the_template_did(write: WriteLines, template: str, problem: str, note: str) -> None:
    path = write({"problem": problem, "answer": "3"})
    tokenizer = make_tokenizer()
    tokenizer.chat_template, tokenizer.bos_token = template, "<|pad|>"
    [example] = load_prompts([path], DataConfig(train=[path]), tokenizer).examples
    assert len(example.notes) == 1
    assert note in example.notes[0]


_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{{ add_generation_prompt }}"
)
_DEFAULT = "<|im_start|>system\nYou are helpful.<|im_end|>\n"
_TAGGED = (
    "{% for m in messages %}[{{ m.role | upper }}]{{ m.content }}[/{{ m.role | upper }}]{% endfor %}"
    "{{ add_generation_prompt }}"
)


@pytest.mark.parametrize(
    ("template", "settings", "doubled"),
    [
        (_DEFAULT + _CHATML, {}, True),
        (_DEFAULT + _CHATML, {"system_prompt": "In digits."}, True),
        ("{% if messages[0].role != 'system' %}" + _DEFAULT + "{% endif %}" + _CHATML, {}, False),
        ("System: Add.\n{% for m in messages %}{{ m.role | capitalize }}: {{ m.content }}\n{% endfor %}"
         "{{ add_generation_prompt }}", {}, True),
        ("[SYSTEM]Add.[/SYSTEM]" + _TAGGED, {}, True),
        (_TAGGED, {}, False),
        # A text of the template's own in the same message.
        ("<|im_start|>system\nToday is Monday.\n{{ messages[0].content }}<|im_end|>{{ messages[1].content }}"
         "{{ add_generation_prompt }}", {}, False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("own", ["In words. A system\nof rules.", ""])
def test_a_system_message_that_the_template_adds_to_the_rows_is_said(
    write: WriteLines, template: str, settings: dict[str, object], doubled: bool, own: str
) -> None:
    user = {"role": "user", "content": "1+2"}
    path = write({"problem": [user] if settings else [{"role": "system", "content": own}, user], "answer": "3"})
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    [example] = load_prompts([path], DataConfig.model_validate({"train": [path], **settings}), tokenizer).examples
    assert any("the prompt has two system messages" in note for note in example.notes) == doubled, example.text


@pytest.mark.parametrize(
    "content",
    [
        "m.content",
        "m['content'] | trim",
        "m.content.split('</think>')[-1]",
        "m.content | upper",
        "m.content | tojson",
        "'long' if m.content | length > 3 else m.content",
        "'tag' if '<' in m.content else m.content",
        "m.content if m.content is string else 'parts'",
        "'empty' if m.content == '' else m.content",
        "'list' if m.content is sequence else m.content",
        "m.content[:2]",
        "m.content ~ m.content",
    ],
)
def test_a_problem_in_text_is_rendered_as_the_template_renders_it(write: WriteLines, content: str) -> None:
    problems = ["1+2", "  a ", "x</think>y", 'say "\\frac" & <b>', "ab"]
    path = write(*({"problem": problem, "answer": "3"} for problem in problems))
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<|user|>{{ " + content + " }}.{% endfor %}{{ bos_token }}"
    config = DataConfig(train=[path], template="chat", problem_suffix=" Box it.")
    rendered = Renderer(config, tokenizer).texts(list(read_rows(path, config)))
    chats = [[{"role": "user", "content": f"{problem} Box it."}] for problem in problems]
    assert rendered == [
        tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats
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


def test_an_empty_data_set_is_refused(write: WriteLines) -> None:
    with pytest.raises(DataError, match="holds no rows"):
        load(write(""))


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


def test_a_tokenizer_without_chat_template_is_refused_only_where_one_is_needed(write: WriteLines) -> None:
    path = write({"problem": "1+2", "answer": "3"})
    plain = make_tokenizer()
    plain.chat_template = None
    with pytest.raises(ModelError, match=r"has no chat template; set data\.template to none"):
        load_prompts([path], DataConfig(train=[path]), plain)
    assert load_prompts([path], DataConfig(train=[path], template="none"), plain).prompts


def test_a_chat_template_that_refuses_a_message_is_quoted(write: WriteLines) -> None:
    path = write({"problem": "1+2", "answer": "3"})
    strict = make_tokenizer()
    strict.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(DataError, match="line 1: the tokenizer's chat template refuses the prompt: System role"):
        load_prompts([path], DataConfig(train=[path]), strict)


def test_a_system_prompt_needs_the_chat_template() -> None:
    with pytest.raises(ValueError, match="system_prompt belongs to template chat"):
        DataConfig(train=["x"], template="none", system_prompt="Add.")


def test_data_sets_of_the_hub_are_read_or_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = types.ModuleType("datasets")

    def load_dataset(name: str, split: str) -> list[dict[str, object]]:
        if name == "who/unreachable":
            raise ConnectionError("Couldn't reach the hub\ndetails")
        return [{"problem": f"{name} {split}", "answer": 1}]

    monkeypatch.setattr(hub, "load_dataset", load_dataset, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    assert next(read_rows("hf:who/sums", CONFIG)).problem == "who/sums train"
    row = next(read_rows("hf:who/sums:test", CONFIG))
    assert (row.problem, row.row_id, row.source) == ("who/sums test", "sums-1", "sums")
    with pytest.raises(DataError, match=r"cannot be loaded from the hub \(Couldn't reach the hub\)"):
        next(read_rows("hf:who/unreachable", CONFIG))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs the package datasets: install maspo-dist\[hub\]"):
        next(read_rows("hf:who/sums", CONFIG))
