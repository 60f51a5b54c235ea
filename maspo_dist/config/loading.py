"""YAML and dotted overrides → a validated configuration, or one sentence naming key, value and fix."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from maspo_dist.config.keys import section_types
from maspo_dist.config.losses import LossConfig, loss_class
from maspo_dist.config.train import TrainConfig
from maspo_dist.errors import ConfigError

Root = TypeVar("Root", bound=BaseModel)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The configuration in `path`, changed by `overrides`: dotted.key=value, value in YAML. Raises ConfigError."""
    return build_config(TrainConfig, read_tree(Path(path)), overrides)


def read_tree(path: Path) -> dict[str, Any]:
    """The YAML mapping in `path`, unvalidated. Raises ConfigError where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"config file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} cannot be read: {error}") from None
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise ConfigError(f"config file {path}{line} is not YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"config file {path} must hold sections such as run, model and data, but it is empty")
    return tree


def build_config(root: type[Root], tree: dict[str, Any], overrides: Sequence[str] = ()) -> Root:
    """`tree`, with `overrides` written into it, as a `root`. Raises ConfigError naming key, value and fix."""
    for override in overrides:
        _apply(tree, override)
    try:
        return root.model_validate(_numbers_from_text(tree))
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(root, tree, detail) for detail in error.errors())) from None


def dump_config(config: BaseModel) -> str:
    """The resolved configuration as YAML; reading it again gives an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"override {override!r} is not of the form dotted.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"override {override!r}: the value is not YAML; quote it") from None
    *parents, leaf = key.split(".")
    node = tree
    for depth, part in enumerate(parents):
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            # `loss.kind=clip` over `correction: tis` style short forms replaces the short form.
            raise ConfigError(f"override {override!r}: {'.'.join(parents[: depth + 1])} is a value, not a section")
        node = child
    if leaf == "kind" and isinstance(node.get("kind"), str) and node["kind"] != value:
        # Another kind has other keys, and would refuse the keys of the old kind.
        node.clear()
    node[leaf] = value


def _numbers_from_text(node: Any) -> Any:
    """YAML 1.1 reads `1e-6` as text; read it as the number it is."""
    if isinstance(node, dict):
        return {key: _numbers_from_text(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_numbers_from_text(value) for value in node]
    if isinstance(node, str) and "e" in node.lower() and node[:1] in "+-.0123456789":
        try:
            return float(node)
        except ValueError:
            return node
    return node


def _sentence(root: type[BaseModel], tree: object, detail: ErrorDetails) -> str:
    location = [str(part) for part in detail["loc"]]
    key = ".".join(location) or "config"
    kind, value = detail["type"], detail.get("input")
    if kind == "extra_forbidden":
        known = _fields_at(root, tree, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known keys here: {', '.join(known)}"
        return f"{key}: no such key (value {value!r}); {hint}"
    if kind == "missing":
        return f"{key}: required, but not set"
    message = detail["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return f"{key}: {message}"
    return f"{key}: {message[:1].lower() + message[1:]}, got {value!r}"


def _fields_at(root: type[BaseModel], tree: object, location: Sequence[str]) -> list[str]:
    """Field names of the section at `location` in `tree`."""
    models: list[type[BaseModel]] = [root]
    for part in location:
        tree = tree.get(part) if isinstance(tree, dict) else None
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        models = [model for field in fields for model in section_types(field.annotation)]
        if models == [LossConfig] and isinstance(tree, dict):
            models = [loss_class(tree)]
    return sorted({name for model in models for name in model.model_fields})
