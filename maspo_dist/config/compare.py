"""CompareConfig, of `maspo-dist compare`: the content of a file of variants."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from maspo_dist.config.section import Listed, Name, PathText, Section

_SEEDS = re.compile(r"(\d+)(?:-(\d+))?")


class CompareConfig(Section):
    """Variants of one configuration, each with several seeds, at equal samples; `{seed}` in overrides is the seed."""

    #: Name of the folder of all its runs, under run.dir.
    name: Name
    #: The configuration that all runs start from, relative to this file.
    config: PathText
    #: dotted.key=value overrides of every run.
    overrides: Listed[str] = Field(default_factory=list)
    #: Seeds of every variant, such as 0-4 or 0,3,7.
    seeds: str = "0-4"
    #: dotted.key=value overrides of each variant, by its name.
    variants: dict[Name, Listed[str]] = Field(min_length=1)
    #: Metric that is compared; null: avg@k of the first held-out set.
    score: str | None = None
    #: Runs are compared by their first step with this score; null takes the middle of start and best final score.
    reach: float | None = None
    #: Variant that the others are tested against; null: the first.
    against: str | None = None

    @field_validator("seeds")
    @classmethod
    def _seeds_parse(cls, value: str) -> str:
        parse_seeds(value)
        return value


def parse_seeds(text: str) -> tuple[int, ...]:
    """`0-2,7` → (0, 1, 2, 7). Raises ValueError with one sentence."""
    seeds: list[int] = []
    for part in text.replace(" ", "").split(","):
        match = _SEEDS.fullmatch(part)
        if not match:
            raise ValueError(f"seeds must be such as 0-4 or 0,3,7, got {text!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"seeds {part} run backwards: write {last}-{first}")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"a seed stands twice in {text!r}")
    return tuple(seeds)
