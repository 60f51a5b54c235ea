"""Writes a Hugging Face model folder: config, weights and tokenizer, as transformers and vLLM load them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save_model_folder(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Writes `model` (in its own dtype) and `tokenizer` to `folder`, which is made if it is missing.

    Unlike `save_pretrained`, this also accepts a model that was read from a quantized file. Tied weights are stored
    once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored: set[int] = set()
    weights = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in stored:
            stored.add(tensor.data_ptr())
            weights[name] = tensor.contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    # vLLM takes a folder without its architecture for an embedding model.
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target` to write into, renamed to `target` at the end of the block.

    If the block or the rename fails, the new folder is removed. Raises OSError if `target` exists and is not empty.
    """
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        yield draft
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
