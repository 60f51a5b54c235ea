"""Whether `model.path` is a folder or a name of the hub. Apart from facts.py, whose imports take seconds."""

from __future__ import annotations

import difflib
from pathlib import Path

from maspo_dist.errors import ModelError


def is_hub_name(path: str) -> bool:
    """Whether `path` is of the form `org/name` and no folder `org` exists."""
    return path.count("/") == 1 and not path.startswith((".", "/", "~")) and not Path(path).parent.exists()


def require_model(path: str) -> None:
    """Raises ModelError where `path` is neither a model folder nor a name of the hub."""
    folder = Path(path)
    if (folder / "config.json").is_file() or is_hub_name(path):
        return
    if folder.is_dir():
        raise ModelError(f"model.path {path} holds no config.json, so it is not a Hugging Face model folder")
    if folder.exists():
        raise ModelError(f"model.path {path} is a file: name the folder of the model")
    try:
        siblings = [str(entry) for entry in folder.parent.iterdir()]
    except OSError:
        siblings = []
    near = difflib.get_close_matches(path, siblings, n=1)
    hint = (
        f"did you mean {near[0]}?" if near else "set model.path to a Hugging Face folder (`maspo-dist demo` makes one)"
    )
    raise ModelError(f"model.path {path} does not exist; {hint}")
