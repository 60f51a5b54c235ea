"""The configuration that trains a demo, so that nothing else is needed to train it."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from maspo_dist.demo.calculator import CALCULATOR
from maspo_dist.demo.files import DemoFiles

_TOOLS = f"""environment:
  tools: ["{CALCULATOR}"]
  call_format: calls
  # A call, and then the answer.
  max_turns: 2
"""


def write_config(demo: DemoFiles) -> Path:
    """Writes config.yaml beside model and data, with absolute paths, and returns its path."""
    folder = demo.model.parent.absolute()
    text = files("maspo_dist.demo").joinpath("config.yaml").read_text(encoding="utf-8")
    # Inside the quotes of YAML, a path is written as in JSON.
    text = text.replace("FOLDER", json.dumps(str(folder))[1:-1])
    if demo.calculator_start is not None:
        text += _TOOLS
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path
