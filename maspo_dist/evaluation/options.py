"""From the options of `maspo-dist eval` to its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maspo_dist.config import EvaluationConfig, build_config
from maspo_dist.data.rows import HUB_PREFIX, hub_short_name
from maspo_dist.errors import ConfigError
from maspo_dist.evaluation.presets import PRESETS, preset_sets


def eval_config(
    options: Mapping[str, Mapping[str, object]],
    *,
    data: Sequence[str] = (),
    preset: str | None = None,
    data_dir: Path | None = None,
    overrides: Sequence[str] = (),
) -> EvaluationConfig:
    """The configuration that the command line means.

    options    values by section and key; None for an option that was not given
    data       held-out sets, each FILE or NAME=FILE
    preset     further sets, by the name of their list; `data_dir` holds their files
    overrides  dotted.key=value, applied last

    Without a temperature, a single response is greedy and several are sampled at temperature 1. Raises ConfigError
    or DataError with one sentence.
    """
    tree: dict[str, Any] = {
        section: {key: value for key, value in values.items() if value is not None}
        for section, values in options.items()
    }
    tree["data"]["sets"] = _sets(data, preset, data_dir)
    tree["sampling"].setdefault("temperature", 0.0 if tree["sampling"]["samples"] == 1 else 1.0)
    if preset is not None:
        tree["data"]["problem_suffix"] = PRESETS[preset].problem_suffix
    return build_config(EvaluationConfig, tree, overrides)


def _sets(data: Sequence[str], preset: str | None, data_dir: Path | None) -> dict[str, str]:
    if (preset is None) != (data_dir is None):
        raise ConfigError("--preset and --data-dir go together: the preset says which files, --data-dir where they are")
    sets: dict[str, str] = {}
    if preset is not None and data_dir is not None:
        if preset not in PRESETS:
            raise ConfigError(f"--preset {preset} is not known; known are {', '.join(PRESETS)}")
        sets |= preset_sets(PRESETS[preset], data_dir)
    for text in data:
        name, data_set = _named(text)
        if name in sets:
            raise ConfigError(f"two data sets are called {name}: name one of them, such as --data other={data_set}")
        sets[name] = data_set
    if not sets:
        raise ConfigError("nothing to evaluate on: give --data FILE, or --preset paper --data-dir FOLDER")
    return sets


def _named(text: str) -> tuple[str, str]:
    """Name and path of `NAME=FILE`, or of `FILE`, which is named by its stem; a "=" after a "/" belongs to the path."""
    name, equals, data_set = text.partition("=")
    if equals and name and "/" not in name and not name.startswith(HUB_PREFIX):
        return name, data_set
    if text.startswith(HUB_PREFIX):
        return hub_short_name(text), text
    return Path(text).stem, text
