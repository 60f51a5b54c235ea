"""YAML and dotted overrides → a validated configuration, or one sentence naming key, value and fix."""

from __future__ import annotations

import difflib
import re
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
    except IsADirectoryError:
        raise ConfigError(f"config file {path} is a folder: name a YAML file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"config file {path} is not UTF-8: save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"config file {path} cannot be read: {error.strerror}") from None
    try:
        tree = _parse(text)
    except ValueError as error:
        raise ConfigError(f"config file {path}{error}") from None
    if not isinstance(tree, dict):
        kind = "is empty" if tree is None else f"holds a {'list' if isinstance(tree, list) else 'single value'}"
        raise ConfigError(f"config file {path} {kind}: write sections such as run, model and data into it")
    return tree


def build_config(root: type[Root], tree: dict[str, Any], overrides: Sequence[str] = ()) -> Root:
    """`tree`, with `overrides` written into it, as a `root`. Raises ConfigError naming key, value and fix.

    Where overrides choose another loss, the parameters that `tree` has for its own loss are left out.
    """
    changes = [_key_and_value(override) for override in overrides]
    _drop_other_loss(tree, changes)
    for override, (key, value) in zip(overrides, changes, strict=True):
        _write(tree, override, key, value)
    try:
        return root.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(root, tree, detail) for detail in error.errors())) from None


def dump_config(config: BaseModel) -> str:
    """The resolved configuration as YAML; reading it again gives an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _key_and_value(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"override {override!r} is not of the form dotted.key=value")
    try:
        return key, _parse(text)
    except ValueError as error:
        raise ConfigError(f"override {_short(override)}{error}; put the value in quotes") from None


def _drop_other_loss(tree: dict[str, Any], changes: Sequence[tuple[str, Any]]) -> None:
    """Empties `algorithm.loss` of `tree` where `changes` choose another kind, which would refuse its keys."""
    kinds = [value for key, value in changes if key == "algorithm.loss.kind"]
    algorithm = tree.get("algorithm")
    if not kinds or not isinstance(algorithm, dict):
        return
    loss = algorithm.get("loss")
    if isinstance(loss, dict) and loss.get("kind", "maspo") != kinds[-1]:
        algorithm["loss"] = {}


def _write(tree: dict[str, Any], override: str, key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    node = tree
    for depth, part in enumerate(parents):
        child = node.get(part)
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"override {override!r}: {'.'.join(parents[: depth + 1])} is a value, not a section")
        node = child
    node[leaf] = value


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-6 is a number, a date is text, every key is text, and no mapping holds a key twice."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                where = f"stands twice, in line {lines[key.value]} and line {line}: remove one"
                raise yaml.MarkedYAMLError(problem=f"{key.value} {where}", problem_mark=key.start_mark)
            lines[key.value] = line
            key.tag = "tag:yaml.org,2002:str"
        return node

    def compose_scalar_node(self, anchor: dict[Any, yaml.Node]) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if re.search("[\0\ud800-\udfff]", node.value):
            raise yaml.MarkedYAMLError(problem="text holds a null or half a character", problem_mark=node.start_mark)
        return node

    def construct_document(self, node: yaml.Node) -> Any:
        self.deep_construct = True  # Refuses a mapping or list that holds itself.
        return super().construct_document(node)


_INT, _FLOAT, _DATE = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp"))
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag not in (_INT, _FLOAT, _DATE)]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_INT, re.compile(r"-?(?:0|[1-9]\d*)\Z"), list("-0123456789"))
_DECIMAL = r"[-+]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(?:inf|Inf|INF))\Z|\.(?:nan|NaN|NAN)\Z"
_Loader.add_implicit_resolver(_FLOAT, re.compile(_DECIMAL), list("-+.0123456789"))


def _parse(text: str) -> Any:
    """The content of YAML. Raises ValueError that says where and why it cannot be read."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{line} cannot be read as YAML: {error.problem}") from None
    except Exception as error:  # A tag such as !!int calls its constructor on any text.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f" cannot be read as YAML: {reason}") from None


def _sentence(root: type[BaseModel], tree: object, detail: ErrorDetails) -> str:
    location = [str(part) for part in detail["loc"]]
    key = ".".join(part if part.isprintable() else repr(part) for part in location) or "config"
    kind, value = detail["type"], detail.get("input")
    if kind == "extra_forbidden":
        known = _fields_at(root, tree, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known keys here: {', '.join(known)}"
        return f"{key}: no such key (value {_short(value)}); {hint}"
    if kind == "missing":
        return f"{key}: required, but not set"
    message = detail["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return f"{key}: {message}"
    if kind in ("model_type", "dict_type"):
        return f"{key} {_instead_of_section(root, tree, location, value)}"
    if kind == "string_type" and isinstance(value, int | float):
        return f"{key}: YAML reads {value!r} as a {type(value).__name__}; write it in quotes"
    return f"{key}: {message[:1].lower() + message[1:]}, got {_short(value)}"


def _instead_of_section(root: type[BaseModel], tree: object, location: Sequence[str], value: object) -> str:
    """What to write where `value` stands in the place of a section."""
    if value is None:
        return "is empty: write keys below it, or remove it"
    is_kind = isinstance(value, str) and "kind" in _fields_at(root, tree, location)
    fix = f"; write {'.'.join(location)}.kind={value}" if is_kind else ""
    return f"must be a section of keys, got {_short(value)}{fix}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


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
