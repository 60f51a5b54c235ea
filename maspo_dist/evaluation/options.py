"""From the options of `maspo-dist eval` to its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maspo_dist.config import EvaluationConfig, build_config
from maspo_dist.data.rows import HUB_PREFIX
from maspo_dist.errors import ConfigError
from maspo_dist.evaluation.presets import PRESETS, preset_sets


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalOptions:
    """Options as they were given; None where one was not."""

    model: str
    data: Sequence[str] = ()
    preset: str | None = None
    data_dir: Path | None = None
    samples: int = 1
    temperature: float | None = None
    top_p: float = 1.0
    max_response_tokens: int | None = None
    seed: int = 0
    workers: int | None = None
    template: str | None = None
    verifier: str | None = None
    dtype: str | None = None
    overrides: Sequence[str] = ()


def eval_config(options: EvalOptions) -> EvaluationConfig:
    """The configuration that `options` mean; `overrides` (dotted.key=value) come last.

    Without a temperature, one response is greedy and several are drawn at 1. Raises ConfigError or
    DataError with one sentence.
    """
    sets = _sets(options)
    temperature = options.temperature
    if temperature is None:
        temperature = 0.0 if options.samples == 1 else 1.0
    tree: dict[str, dict[str, Any]] = {
        "model": _given(path=options.model, dtype=options.dtype),
        "data": _given(sets=sets, template=options.template),
        "sampling": _given(
            samples=options.samples,
            temperature=temperature,
            top_p=options.top_p,
            max_response_tokens=options.max_response_tokens,
            seed=options.seed,
        ),
        "rollout": _given(workers=options.workers),
        "reward": _given(default=options.verifier),
    }
    if options.preset is not None:
        tree["data"]["problem_suffix"] = PRESETS[options.preset].problem_suffix
    return build_config(EvaluationConfig, tree, options.overrides)


def _sets(options: EvalOptions) -> dict[str, str]:
    if (options.preset is None) != (options.data_dir is None):
        raise ConfigError("--preset and --data-dir go together: the preset says which files, --data-dir where they are")
    sets: dict[str, str] = {}
    if options.preset is not None and options.data_dir is not None:
        if options.preset not in PRESETS:
            raise ConfigError(f"--preset {options.preset} is not known; known are {', '.join(PRESETS)}")
        sets |= preset_sets(PRESETS[options.preset], options.data_dir)
    for text in options.data:
        name, data_set = _named(text)
        if name in sets:
            raise ConfigError(f"two data sets are called {name}: name one of them, such as --data other={data_set}")
        sets[name] = data_set
    if not sets:
        raise ConfigError("nothing to evaluate on: give --data FILE, or --preset paper --data-dir FOLDER")
    return sets


def _named(text: str) -> tuple[str, str]:
    """`name=path`, or a path whose stem is the name; a path may hold "=" where no name stands before it."""
    name, equals, data_set = text.partition("=")
    if equals and name and "/" not in name and not name.startswith(HUB_PREFIX):
        return name, data_set
    if text.startswith(HUB_PREFIX):
        return text.removeprefix(HUB_PREFIX).partition(":")[0].rsplit("/", 1)[-1], text
    return Path(text).stem, text


def _given(**values: object) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
