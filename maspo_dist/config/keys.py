"""Dotted keys: a configuration as one flat mapping, the effect of each key, and what changed between two of them."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from maspo_dist.config.section import Effect
from maspo_dist.config.train import TrainConfig
from maspo_dist.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigChange:
    """One key and its two values, None where a side lacks it. `effect` is None for a key of another version."""

    key: str
    before: Any
    now: Any
    effect: Effect | None

    def __str__(self) -> str:
        return f"{self.key} was {_shown(self.before)}, is {_shown(self.now)}"


def flatten(tree: object, above: str = "") -> Iterator[tuple[str, Any]]:
    """The values of `tree` by dotted key, in order. An empty section is a value."""
    if isinstance(tree, Mapping) and tree:
        for name, value in tree.items():
            yield from flatten(value, f"{above}.{name}" if above else str(name))
    else:
        yield above, tree


def effect_of(root: type[BaseModel], key: str) -> Effect | None:
    """The effect that is stated closest to `key`, at its field or at a section that holds it; None where none is."""
    models, effect = [root], None
    for part in key.split("."):
        if effect is not None and part in effect.inner:
            return effect.inner[part]
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        effect = next((mark for field in fields for mark in field.metadata if isinstance(mark, Effect)), effect)
        models = [model for field in fields for model in section_types(field.annotation)]
    return effect


def changed_keys(root: type[BaseModel], before: Mapping[str, Any], now: Mapping[str, Any]) -> list[ConfigChange]:
    """Every key whose value differs between two trees of `root`, in the order of `now`; {} is as good as no value."""
    was, present = ({key: value for key, value in flatten(tree) if value != {}} for tree in (before, now))
    return [
        ConfigChange(key=key, before=was.get(key), now=present.get(key), effect=effect_of(root, key))
        for key in dict.fromkeys([*present, *was])
        if was.get(key) != present.get(key)
    ]


def resume_changes(before_yaml: str, now: TrainConfig) -> tuple[list[ConfigChange], list[ConfigChange]]:
    """What changed since a checkpoint was saved: changes after which the run trains something else, and the others.

    `before_yaml` is the output of dump_config, perhaps of another version. A key that one version lacks is a change
    unless the other version has its default there. A key that this version does not know matters.
    """
    changes = changed_keys(TrainConfig, _completed(yaml.safe_load(before_yaml)), now.model_dump(mode="json"))
    matters = [change for change in changes if _matters(change, now)]
    return matters, [change for change in changes if change not in matters]


def section_types(annotation: object) -> list[type[BaseModel]]:
    """The sections that a field of this type can hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return [model for part in typing.get_args(annotation) for model in section_types(part)]
    return []


def _matters(change: ConfigChange, now: TrainConfig) -> bool:
    if change.key == "run.max_steps":
        # A schedule that ends at the last step changes with that step.
        return now.learner.schedule != "constant"
    return change.effect is None or change.effect.resume


def _completed(tree: Any) -> Mapping[str, Any]:
    """`tree` with the defaults of keys that it lacks, if it is still valid."""
    try:
        return TrainConfig.model_validate(tree).model_dump(mode="json")
    except (ValidationError, ConfigError):
        return tree if isinstance(tree, dict) else {}


def _shown(value: Any) -> str:
    return "not set" if value is None else f"{value!r}" if isinstance(value, str) else f"{value}"
