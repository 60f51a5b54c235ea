"""The base of every section, and what a change of a key changes.

Every key of TrainConfig and EvaluationConfig states its effect in its type, such as `lr: Meaning[float]`. The effect
stated at a section holds for the keys in it that state none.

              resume   compare   scores
Meaning       yes      yes       yes      what is trained or measured: model, data, objective, optimizer
Location      yes      yes       no       where the model or data is; an evaluation compares checksums instead
Execution     no       yes       yes      how it is computed; figures may differ in their last digits, or in time
Capacity      no       yes       no       how many processes compute it
Operation     no       no        no       deadlines, logs and checkpoints
"""

from __future__ import annotations

import os
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationInfo, field_validator

T = TypeVar("T")


def _is_name(value: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", value, re.ASCII):
        raise ValueError(f"{value!r} must hold letters, digits, '.', '_' and '-' only, and not start with '.' or '-'")
    return value


def _number_as_text(value: object) -> object:
    """YAML reads a name such as 20260214 as a number."""
    return str(value) if type(value) is int else value


def _in_a_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _as_path(value: object) -> object:
    """Replaces a leading ~ by the home folder."""
    if not isinstance(value, str):
        return value
    path = os.path.expanduser(value)  # noqa: PTH111 (a Path would drop "./" and the second slash of "hf://")
    if path.startswith("~"):
        raise ValueError(f"{value!r}: there is no such home folder here; write the whole path")
    if len(path.encode()) >= 4096 or any(len(part.encode()) > 255 for part in path.split("/")):
        raise ValueError(f"{path[:40]!r}… is too long for a path")
    return path


def _is_number(annotation: object) -> bool:
    """Whether values of this type are numbers, or null."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = set(typing.get_args(annotation)) - {types.NoneType}
        return bool(parts) and all(_is_number(part) for part in parts)
    if typing.get_origin(annotation) is Literal:
        return all(type(choice) is int for choice in typing.get_args(annotation))
    return annotation in (int, float)


#: Part of a path and of the name of a metric.
Name = Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_is_name)]
#: A path, or a name of the hub.
PathText = Annotated[str, BeforeValidator(_as_path)]
Folder = Annotated[Path, BeforeValidator(_as_path)]
#: A list; a single text is a list of one.
Listed = Annotated[list[T], BeforeValidator(_in_a_list)]


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values are checked, and the section is frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        """YAML reads yes and on as true, which would count as 1."""
        if isinstance(value, bool) and _is_number(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError(f"must be a number, got {value}")
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a change of a key changes.

    resume    a resumed run would train something else
    compare   `maspo-dist compare` takes the run for another run
    scores    the scores of a standalone evaluation may change
    inner     effects of single keys in a free-form mapping
    """

    resume: bool
    compare: bool
    scores: bool
    inner: Mapping[str, Effect] = field(default_factory=dict)


MEANING = Effect(resume=True, compare=True, scores=True)
EXECUTION = Effect(resume=False, compare=True, scores=True)

Meaning = Annotated[T, MEANING]
Location = Annotated[T, Effect(resume=True, compare=True, scores=False)]
Execution = Annotated[T, EXECUTION]
Capacity = Annotated[T, Effect(resume=False, compare=True, scores=False)]
Operation = Annotated[T, Effect(resume=False, compare=False, scores=False)]
