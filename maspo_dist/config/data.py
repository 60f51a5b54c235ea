"""The section `data`: where prompts come from, and how rows become prompts."""

from __future__ import annotations

import datetime
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from maspo_dist.config.section import Execution, Listed, Name, PathText, Section


class PromptConfig(Section):
    """How rows become prompts."""

    #: Field of a row that holds the problem.
    problem_field: str = "problem"
    #: Field of a row that holds the reference answer.
    answer_field: str = "answer"
    #: Field with the source of the row, which picks the verifier; the default is the name of the file.
    source_field: str = "source"
    #: chat uses the tokenizer's template, none the bare problem; anything else is text with {problem}.
    template: str = "chat"
    #: System message for rows without one; a row's own system message is used, even an empty one.
    system_prompt: str | None = None
    #: The date that a chat template may write into a prompt. Today's would end a resume on the next day.
    date: datetime.date = datetime.date(2026, 1, 1)
    #: Text after every problem, before the template is applied; describe the format of the answer here.
    problem_suffix: str = ""
    #: Longest prompt in tokens, after the template.
    max_prompt_tokens: int = Field(1024, ge=1)
    #: What to do with longer prompts: refuse the data set, or drop them and report how many.
    overlong_prompts: Literal["refuse", "drop"] = "refuse"

    @field_validator("date", mode="before")
    @classmethod
    def _date_is_iso(cls, value: object) -> object:
        try:
            return datetime.date.fromisoformat(value) if isinstance(value, str) else value
        except ValueError:
            raise ValueError(f"{value!r} is no date: write it as 2026-01-31") from None

    @field_validator("template")
    @classmethod
    def _template_has_problem(cls, value: str) -> str:
        if value not in ("chat", "none") and "{problem}" not in value:
            raise ValueError(f"template must be chat, none, or text that holds {{problem}}, got {value!r}")
        return value

    @model_validator(mode="after")
    def _system_prompt_has_its_template(self) -> Self:
        if self.system_prompt is not None and self.template != "chat":
            raise ValueError(
                f"system_prompt belongs to template chat, but template is {self.template!r}: "
                "write it into the template, or remove it"
            )
        return self


class DataConfig(PromptConfig):
    """Prompts with verifiable answers."""

    #: JSON Lines, JSON, CSV, Parquet or Arrow files, or `hf:NAME[/CONFIG][:SPLIT]` for a Hugging Face data set.
    train: Listed[PathText] = Field(min_length=1)
    #: Held-out sets by name, each a file or `hf:NAME[/CONFIG][:SPLIT]`.
    eval: Execution[dict[Name, PathText]] = Field(default_factory=dict)
