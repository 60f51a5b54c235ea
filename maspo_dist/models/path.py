"""Whether `model.path` is a folder or a name of the hub. Apart from facts.py, whose imports take seconds."""

from __future__ import annotations

import difflib
from pathlib import Path

from maspo_dist.errors import ModelError

_ADAPTER = "adapter_config.json"
#: What a folder without config.json is, by a file in it: what it holds, and what to do.
_OTHER_FOLDERS = {
    "ledger.jsonl": "a run of maspo-dist: write its model by `maspo-dist export RUN --to FOLDER`",
    "learner/layout.json": "a checkpoint of maspo-dist: write its model by `maspo-dist export RUN --to FOLDER`",
    "*.gguf": "GGUF weights, which cannot be trained: name the Hugging Face folder of the same model",
    "snapshots/*/config.json": "a model of the hub's cache: name the folder in its snapshots, or the model by ORG/NAME",
    "zero_to_fp32.py": "a checkpoint of DeepSpeed: convert it by its zero_to_fp32.py and add config.json and tokenizer",
    "*.distcp": "a checkpoint of torch.distributed: export it by the trainer that wrote it",
    "mp_rank_*/*.pt": "a checkpoint of Megatron or DeepSpeed: export it by the trainer that wrote it",
    "consolidated*.pth": "weights in Meta's format: convert them by transformers' convert_llama_weights_to_hf.py",
}


def is_hub_name(path: str) -> bool:
    """Whether `path` is of the form `org/name` and no folder `org` exists."""
    return path.count("/") == 1 and not path.startswith((".", "/", "~")) and not Path(path).parent.exists()


def require_model(path: str) -> None:
    """Raises ModelError where `path` is neither a model folder that can be read nor a name of the hub."""
    folder = Path(path)
    try:
        holds_adapter = (folder / _ADAPTER).is_file()
    except PermissionError as error:
        raise ModelError(
            f"model.path {path} cannot be read ({error.strerror}): ask its owner for permission, or name another folder"
        ) from None
    if holds_adapter:
        raise ModelError(
            f"model.path {path} holds a LoRA adapter ({_ADAPTER}): merge it into its base model (merge_and_unload of "
            "peft) and name the folder of the merged model"
        )
    if (folder / "config.json").is_file() or is_hub_name(path):
        return
    if folder.is_dir():
        raise ModelError(f"model.path {path} holds no config.json{_instead(folder)}")
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


def _instead(folder: Path) -> str:
    """What `folder`, which lacks config.json, holds instead of a model."""
    for pattern, kind in _OTHER_FOLDERS.items():
        if next(folder.glob(pattern), None) is not None:
            return f", but {kind}"
    inner = sorted(str(file.parent) for file in folder.glob("*/config.json"))
    hint = f"; did you mean {inner[-1]}?" if inner else ""
    return f", so it is not a Hugging Face model folder{hint}"
