"""From the options of `maspo-dist compare` to its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maspo_dist.compare.plan import named_variant, read_settings, vary
from maspo_dist.config import CompareConfig, build_config
from maspo_dist.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOptions:
    """Options as they were given; None where one was not."""

    config: Path
    overrides: Sequence[str] = ()
    vary: Sequence[str] = ()
    variants: Sequence[str] = ()
    seeds: str | None = None
    name: str | None = None
    score: str | None = None
    reach: float | None = None
    against: str | None = None


def make_settings(options: CompareOptions) -> tuple[CompareConfig, Path]:
    """The settings, and the configuration that all runs start from.

    Options given on the command line replace those of a file of variants; its overrides stay, with the
    given ones after them. Raises ConfigError with one sentence.
    """
    found = read_settings(options.config)
    tree: dict[str, Any] = found[0].model_dump() if found else {"config": str(options.config)}
    base = found[1] if found else options.config
    variants = vary(options.vary) if options.vary else {}
    for text in options.variants:
        name, overrides = named_variant(text)
        if name in variants:
            raise ConfigError(f"two variants are called {name}")
        variants[name] = overrides
    if variants:
        tree["variants"] = variants
    elif not found:
        raise ConfigError("nothing to compare: give --vary dotted.key=value,value or --variant 'NAME: key=value'")
    tree["overrides"] = [*tree.get("overrides", ()), *options.overrides]
    given = {
        "seeds": options.seeds,
        "name": options.name,
        "score": options.score,
        "reach": options.reach,
        "against": options.against,
    }
    tree |= {key: value for key, value in given.items() if value is not None}
    tree.setdefault("name", f"compare-{options.config.stem}")
    return build_config(CompareConfig, tree), base
