"""Writes a Hugging Face model folder: config, weights and tokenizer, as transformers and vLLM load them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging


def save_model_folder(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Writes `model` (in its own dtype) and `tokenizer` to `folder`, which is made if it is missing."""
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target` to write into, renamed to `target` at the end of the block.

    Its files get the permissions of any new file. If the block or the rename fails, the new folder is removed. Raises
    OSError if `target` exists and is not empty.
    """
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        yield draft
        # safetensors lets nobody else read its files, whatever the umask; the folder's mode shows the umask.
        mode = draft.stat().st_mode & 0o666
        for file in draft.rglob("*"):
            if file.is_file():
                file.chmod(mode)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
