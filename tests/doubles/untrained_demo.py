"""A model folder for tests that train nothing."""

from __future__ import annotations

from pathlib import Path

from maspo_dist.demo.model import make_model, make_tokenizer
from maspo_dist.models.folder import save_model_folder


def save_untrained_demo(folder: Path) -> Path:
    """Saves the demo's model with random weights, and its tokenizer, to `folder`; returns `folder`."""
    tokenizer = make_tokenizer()
    save_model_folder(folder, make_model(tokenizer, 0), tokenizer)
    return folder
