"""CompareConfig, of `maspo-dist compare`: the content of a file of variants."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from maspo_dist.config.section import Listed, Name, PathText, Section

_SEEDS = re.compile(r"(\d+)(?:-(\d+))?")


def _as_texts(value: object) -> object:
    """YAML reads 0.3 as a number; overrides are texts."""
    values = value if isinstance(value, list) else [value]
    return [str(one).lower() if isinstance(one, bool) else str(one) for one in values]


#: Values of one key, as overrides write them.
Values = Annotated[list[str], BeforeValidator(_as_texts), Field(min_length=1)]
#: Values to try, by dotted key; with several keys, every combination is tried.
Grid = dict[str, Values]
TuneMeasure = Literal["area", "final", "pass_area", "pass_final", "reward_area"]


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
    #: Grid from which every variant gets its own best values before the comparison, such as learner.lr: [5e-5, 1e-4].
    tune: Grid = Field(default_factory=dict)
    #: Grids of single variants, by variant, in place of `tune`; {} leaves a variant as it stands.
    tune_variants: dict[Name, Grid] = Field(default_factory=dict)
    #: Seeds of the tuning runs; none of them may stand in `seeds`.
    tune_seeds: str = "100-102"
    #: Measure that picks the values, by its mean over the tuning seeds: area under the curve or end of the score, of
    #: pass@k of the same held-out set, or the area of the sampled reward.
    tune_by: TuneMeasure = "area"

    @field_validator("seeds", "tune_seeds")
    @classmethod
    def _seeds_parse(cls, value: str) -> str:
        parse_seeds(value)
        return value

    @model_validator(mode="after")
    def _can_be_tuned(self) -> Self:
        if strangers := self.tune_variants.keys() - self.variants.keys():
            raise ValueError(
                f"tune_variants: no variant is called {min(strangers)!r}; there are {', '.join(self.variants)}"
            )
        grids = {name: self.grid_of(name) for name in self.variants}
        for name, grid in grids.items():
            fixed = {override.partition("=")[0] for override in self.variants[name]}
            for key, values in grid.items():
                if key in fixed:
                    raise ValueError(
                        f"variant {name} sets {key}, which is tuned: remove it from the variant, "
                        f"or set tune_variants.{name} to {{}}"
                    )
                if len(set(values)) < len(values):
                    raise ValueError(f"the grid of {key} for variant {name} holds a value twice: {', '.join(values)}")
        again = set(parse_seeds(self.seeds)) & set(parse_seeds(self.tune_seeds))
        if any(grids.values()) and again:
            raise ValueError(
                f"tune_seeds {self.tune_seeds} and seeds {self.seeds} share seed {min(again)}: "
                "choose tuning seeds that the comparison does not use"
            )
        return self

    def grid_of(self, variant: str) -> Grid:
        """The grid that `variant` is tuned on; empty if it is not tuned."""
        return self.tune_variants.get(variant, self.tune)


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
