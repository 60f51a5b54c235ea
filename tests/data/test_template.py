"""Templates: the text that a problem becomes, and what is said or refused about it."""

from __future__ import annotations

import pytest
from prompt_files import WriteLines, load, text

from maspo_dist.config import DataConfig
from maspo_dist.data.prompts import load_prompts
from maspo_dist.data.rows import read_rows
from maspo_dist.data.template import Renderer
from maspo_dist.demo.model import make_tokenizer
from maspo_dist.errors import DataError, ModelError


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
        "copied(m.content) | trim",
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
    copied = "{% macro copied(text) %}{{ text }}{% endmacro %}"
    tokenizer.chat_template = (
        copied + "{% for m in messages %}<|user|>{{ " + content + " }}.{% endfor %}{{ bos_token }}"
    )
    config = DataConfig(train=[path], template="chat", problem_suffix=" Box it.")
    rendered = Renderer(config, tokenizer).texts(list(read_rows(path, config)))
    chats = [[{"role": "user", "content": f"{problem} Box it."}] for problem in problems]
    assert rendered == [
        tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats
    ]


def test_a_template_that_writes_the_date_gets_the_date_of_the_configuration(write: WriteLines) -> None:
    """On another day a resume has to render the prompts of the first start."""
    path = write({"problem": "1+2", "answer": "3"})
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}: {{ messages[0].content }}"
    [usual] = load_prompts([path], DataConfig(train=[path]), tokenizer).examples
    assert usual.text == "01 Jan 2026: 1+2"
    dated = DataConfig.model_validate({"train": [path], "date": "2026-07-14"})
    [own] = load_prompts([path], dated, tokenizer).examples
    assert own.text == "14 Jul 2026: 1+2"
    assert DataConfig.model_validate_json(dated.model_dump_json()) == dated
    with pytest.raises(ValueError, match="'yesterday' is no date: write it as 2026-01-31"):
        DataConfig.model_validate({"train": [path], "date": "yesterday"})


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
