"""Data files of a few rows, and the prompts that become of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from maspo_dist.config import DataConfig
from maspo_dist.data.prompts import ContextLimit, PromptSet, load_prompts
from maspo_dist.demo.model import make_tokenizer

TOKENIZER = make_tokenizer()

#: Writes rows and returns the path of their file; the fixture `write` is such a function.
WriteLines = Callable[..., str]


def load(path: str, limit: ContextLimit | None = None, **settings: object) -> PromptSet:
    """The prompts of a file, with `settings` in the section data."""
    config = DataConfig.model_validate({"train": [path], **settings})
    return load_prompts([path], config, TOKENIZER, limit)


def text(ids: np.ndarray) -> str:
    return str(TOKENIZER.decode(ids.tolist()))
