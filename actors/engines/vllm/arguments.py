"""The names of vLLM's engine arguments, without an import of vLLM, which takes many seconds."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from maspo_dist.errors import ConfigError

_CLASSES = ("EngineArgs", "AsyncEngineArgs")


def require_arguments(names: Iterable[str]) -> None:
    """Raises ConfigError when the vLLM of this Python has no engine argument of one of `names`.

    Without vLLM here, all names are accepted.
    """
    known = _arguments()
    unknown = next((name for name in names if name not in known), None)
    if known and unknown is not None:
        near = difflib.get_close_matches(unknown, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "remove it"
        raise ConfigError(f"rollout.engine.{unknown}: vLLM has no such engine argument; {hint}")


def _arguments() -> list[str]:
    """The fields of AsyncEngineArgs, read from vLLM's source."""
    package = find_spec("vllm")
    if package is None or package.origin is None:
        return []
    source = Path(package.origin).with_name("engine") / "arg_utils.py"
    if not source.is_file():
        return []
    classes = [node for node in ast.parse(source.read_bytes()).body if isinstance(node, ast.ClassDef)]
    return [
        field.target.id
        for node in classes
        if node.name in _CLASSES
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    ]
