"""From the options of `maspo-dist compare` to its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maspo_dist.compare.plan import named_variant, read_grid, read_settings, vary
from maspo_dist.config import CompareConfig, build_config
from maspo_dist.errors import ConfigError

#: Keys that hold something of each variant.
_BY_VARIANT = ("variants", "tune_variants")


def make_settings(
    config: Path,
    options: Mapping[str, object],
    *,
    overrides: Sequence[str] = (),
    varied: Sequence[str] = (),
    named: Sequence[str] = (),
    tuned: Sequence[str] = (),
    only: str | None = None,
) -> tuple[CompareConfig, Path]:
    """The settings, and the configuration that all runs start from.

    config     a configuration, or a file of variants
    options    values by key of CompareConfig; None for an option that was not given
    overrides  dotted.key=value of every run, applied after those of the file
    varied     dotted.key=value,value: one variant per value
    named      `NAME: dotted.key=value …`: one variant each
    tuned      dotted.key=value,value: the grid of every variant
    only       names of the variants to keep, with commas between them; None keeps all

    Variants and grids of the command line replace those of the file. Raises ConfigError with one sentence.
    """
    found = read_settings(config)
    tree: dict[str, Any] = found[0].model_dump() if found else {"config": str(config)}
    variants = vary(varied) if varied else {}
    for text in named:
        name, changes = named_variant(text)
        if name in variants:
            raise ConfigError(f"two variants are called {name}")
        variants[name] = changes
    if variants:
        tree |= {"variants": variants, "tune_variants": {}}
    elif not found:
        raise ConfigError("nothing to compare: give --vary dotted.key=value,value or --variant 'NAME: key=value'")
    if tuned:
        tree |= {"tune": read_grid(tuned), "tune_variants": {}}
    if only is not None:
        tree.setdefault("tune_variants", {})
        kept = _kept(only, list(tree["variants"]))
        tree |= {key: {name: tree[key][name] for name in kept if name in tree[key]} for key in _BY_VARIANT}
    tree["overrides"] = [*tree.get("overrides", ()), *overrides]
    tree |= {key: value for key, value in options.items() if value is not None}
    tree.setdefault("name", f"compare-{config.stem}")
    return build_config(CompareConfig, tree), found[1] if found else config


def _kept(only: str, known: Sequence[str]) -> list[str]:
    names = [name.strip() for name in only.split(",")]
    for name in names:
        if name not in known:
            raise ConfigError(f"--only: no variant is called {name!r}; there are {', '.join(known)}")
    return [name for name in known if name in names]
