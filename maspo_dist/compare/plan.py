"""Variants, grids and seeds → runs; each is an ordinary `maspo-dist train` with its own folder."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from maspo_dist.compare.statistics import MAX_PAIRS
from maspo_dist.config import CompareConfig, TrainConfig, build_config, load_config, parse_seeds, read_tree
from maspo_dist.config.keys import changed_keys
from maspo_dist.data.rows import HUB_PREFIX, require_file
from maspo_dist.errors import ConfigError, DataError, ModelError
from maspo_dist.models.path import require_model
from maspo_dist.runs.catalogue import hint_if_unwritten
from maspo_dist.runs.folder import RunFolder

#: Folder of the tuning runs, in the folder of the comparison.
TUNING_FOLDER = "tuning"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One variant with one seed: `maspo-dist train base *overrides` leaves `folder`."""

    variant: str
    seed: int
    base: Path
    overrides: tuple[str, ...]
    config: TrainConfig

    @property
    def name(self) -> str:
        return self.config.run.name

    @property
    def folder(self) -> Path:
        return self.config.run.dir / self.config.run.name

    @property
    def samples_per_step(self) -> int:
        return self.config.rollout.prompts_per_step * self.config.rollout.group_size

    @property
    def samples(self) -> int:
        return self.samples_per_step * self.config.run.max_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A variant with one combination of the values of its grid, by dotted key, and its tuning runs."""

    variant: str
    values: Mapping[str, str]
    runs: tuple[PlannedRun, ...]

    @property
    def overrides(self) -> list[str]:
        return [f"{key}={value}" for key, value in self.values.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All runs of a comparison, seed by seed.

    settings, base  what the plan was made from
    variants        overrides by name, tuned values included
    candidates      of the tuned variants, variant by variant
    """

    settings: CompareConfig
    base: Path
    folder: Path
    variants: Mapping[str, Sequence[str]]
    seeds: tuple[int, ...]
    runs: tuple[PlannedRun, ...]
    candidates: tuple[Candidate, ...]
    score: str
    reach: float | None
    against: str

    @property
    def tuning_runs(self) -> tuple[PlannedRun, ...]:
        """Seed by seed."""
        return tuple(itertools.chain.from_iterable(zip(*(one.runs for one in self.candidates), strict=True)))

    @property
    def pass_score(self) -> str | None:
        """pass@k of the held-out set whose avg@k is the score; None where the score is another metric."""
        return pass_metric(self.score)


def make_plan(settings: CompareConfig, base: Path, chosen: Mapping[str, Mapping[str, str]] | None = None) -> Plan:
    """Resolves every run; `chosen` are the tuned values by variant and key. Before tuning has ended, the first values
    of each grid stand for them.

    Raises ConfigError if a variant cannot run or does not compare with the others.
    """
    seeds = _seeds("seeds", settings.seeds)
    against = settings.against or next(iter(settings.variants))
    if against not in settings.variants:
        raise ConfigError(f"against: no variant is called {against!r}; there are {', '.join(settings.variants)}")
    folder = load_config(base, _filled(settings.overrides, seeds[0])).run.dir / settings.name
    candidates = _candidates(settings, base, folder)
    values = {one.variant: one.values for one in reversed(candidates)} | dict(chosen or {})
    variants = {
        name: [*overrides, *(f"{key}={value}" for key, value in values.get(name, {}).items())]
        for name, overrides in settings.variants.items()
    }
    # The tuned values are in the names: after the grid has grown, runs with other values keep their folders.
    runs = tuple(
        _run(variant, values.get(variant, {}), seed, base, folder, (*settings.overrides, *overrides))
        for seed in seeds
        for variant, overrides in variants.items()
    )
    first = runs[0]
    score = settings.score or _first_score(first.config)
    for run in (*runs, *(run for one in candidates for run in one.runs)):
        _require_score(score, run)
        if run.samples != first.samples:
            raise ConfigError(
                f"variant {run.variant} trains on {run.samples:,} samples and {first.variant} on {first.samples:,}: "
                "set run.max_steps so that they are equal"
            )
    if candidates and settings.tune_by.startswith("pass") and pass_metric(score) is None:
        raise ConfigError(f"tune_by {settings.tune_by} needs a score eval/<set>/avg@k, got {score}: set tune_by: area")
    return Plan(
        settings=settings,
        base=base,
        folder=folder,
        variants=variants,
        seeds=seeds,
        runs=runs,
        candidates=candidates,
        score=score,
        reach=settings.reach,
        against=against,
    )


def require_inputs(plan: Plan) -> None:
    """Raises ConfigError when a model or data file of a run is missing: each seed may have its own."""
    seen: set[str] = set()
    for run in (*plan.tuning_runs, *plan.runs):
        data = [*run.config.data.train, *run.config.data.eval.values()]
        try:
            if run.config.model.path not in seen:
                require_model(run.config.model.path)
            for path in data:
                if path not in seen and not path.startswith(HUB_PREFIX):
                    require_file(Path(path))
        except (ModelError, DataError) as error:
            raise ConfigError(f"{run.name} cannot run: {error}") from None
        seen |= {run.config.model.path, *data}


def pass_metric(score: str) -> str | None:
    """`eval/<set>/avg@k` → `eval/<set>/pass@k`; None for another metric."""
    match = re.fullmatch(r"(eval/.+/)avg(@\d+)", score)
    return f"{match[1]}pass{match[2]}" if match else None


def is_finished(run: PlannedRun) -> bool:
    """Whether all steps and the last scores are there. Raises ConfigError for a run of another configuration."""
    folder = RunFolder(run.folder)
    if not folder.used:
        return False
    try:
        there = TrainConfig.model_validate(folder.read_config())
    except ValidationError:
        raise ConfigError(f"{run.folder} holds a run whose config.yaml cannot be read: choose another name") from None
    for change in changed_keys(TrainConfig, there.model_dump(mode="json"), run.config.model_dump(mode="json")):
        if change.effect is None or change.effect.compare:
            raise ConfigError(
                f"{run.folder} holds a run of another configuration ({change}): remove it, or choose another --name"
            )
    last = folder.last_step or 0
    return last >= run.config.run.max_steps and (run.config.evaluation.every is None or folder.is_scored(last))


def read_settings(path: Path) -> tuple[CompareConfig, Path] | None:
    """The comparison in `path` and the configuration that it starts from; None for a training configuration."""
    tree = read_tree(path)
    if "variants" not in tree:
        return None
    settings = build_config(CompareConfig, tree)
    return settings, path.parent / settings.config


def vary(texts: Sequence[str]) -> dict[str, list[str]]:
    """Every combination of `dotted.key=value,value`, named after its values. Raises ConfigError."""
    choices: list[list[tuple[str, str]]] = []
    for text in texts:
        key, values = _key_and_values("--vary", text)
        label = "" if len(texts) == 1 else f"{key.rpartition('.')[2]}-"
        choices.append([(label + _as_name(value), f"{key}={value}") for value in values])
    variants: dict[str, list[str]] = {}
    for combination in itertools.product(*choices):
        name = "_".join(label for label, _ in combination)
        if name in variants:
            raise ConfigError(f"--vary makes two variants called {name}: name them with --variant")
        variants[name] = [override for _, override in combination]
    return variants


def read_grid(texts: Sequence[str]) -> dict[str, list[str]]:
    """`dotted.key=value,value` each → the grid. Raises ConfigError."""
    grid: dict[str, list[str]] = {}
    for text in texts:
        key, values = _key_and_values("--tune", text)
        if key in grid:
            raise ConfigError(f"--tune gives {key} twice: write all of its values into one --tune")
        grid[key] = values
    return grid


def named_variant(text: str) -> tuple[str, list[str]]:
    """`name: key=value key=value` → the variant. A name alone is the configuration as it stands."""
    name, _, overrides = text.partition(":")
    return name.strip(), overrides.split()


def _seeds(key: str, text: str) -> tuple[int, ...]:
    seeds = parse_seeds(text)
    if len(seeds) > MAX_PAIRS:
        raise ConfigError(f"{key}: {text} are {len(seeds)}, at most {MAX_PAIRS} can be compared")
    return seeds


def _candidates(settings: CompareConfig, base: Path, folder: Path) -> tuple[Candidate, ...]:
    """Raises ConfigError if a value of a grid cannot run."""
    seeds = _seeds("tune_seeds", settings.tune_seeds)
    candidates, folders = [], set()
    for variant, overrides in settings.variants.items():
        grid = settings.grid_of(variant)
        for combination in itertools.product(*grid.values()) if grid else ():
            values = dict(zip(grid, combination, strict=True))
            texts = (*settings.overrides, *overrides, *(f"{key}={value}" for key, value in values.items()))
            runs = tuple(_run(variant, values, seed, base, folder / TUNING_FOLDER, texts) for seed in seeds)
            if runs[0].folder in folders:
                name = runs[0].name
                raise ConfigError(f"tune: two runs of {variant} are called {name}: write the values differently")
            folders.add(runs[0].folder)
            candidates.append(Candidate(variant=variant, values=values, runs=runs))
    return tuple(candidates)


def _name(variant: str, values: Mapping[str, str], seed: int) -> str:
    """Of a run with tuned `values`, by dotted key."""
    labels = "_".join(f"{key.rpartition('.')[2]}-{_as_name(value)}" for key, value in values.items())
    return "-".join(filter(None, [variant, labels, f"seed{seed}"]))


def _run(
    variant: str, values: Mapping[str, str], seed: int, base: Path, folder: Path, overrides: Sequence[str]
) -> PlannedRun:
    """A run of `variant` with the tuned `values`; `overrides` contain these values too."""
    filled = (
        *_filled(overrides, seed),
        f"run.seed={seed}",
        f"run.dir={folder}",
        f"run.name={_name(variant, values, seed)}",
        "checkpoint.resume=auto",
    )
    try:
        config = load_config(base, filled)
    except ConfigError as error:
        raise ConfigError(f"variant {variant}: {error}") from None
    return PlannedRun(variant=variant, seed=seed, base=base, overrides=filled, config=config)


def _filled(overrides: Sequence[str], seed: int) -> tuple[str, ...]:
    return tuple(override.replace("{seed}", str(seed)) for override in overrides)


def _first_score(config: TrainConfig) -> str:
    if not config.data.eval or config.evaluation.every is None:
        raise ConfigError("score: there is no held-out set to compare on: set data.eval and evaluation.every, or score")
    return f"eval/{next(iter(config.data.eval))}/avg@{config.evaluation.samples}"


def _require_score(score: str, run: PlannedRun) -> None:
    """Raises ConfigError unless `run` writes the metric `score`."""
    hint = hint_if_unwritten(score, run.config)
    if hint is not None:
        raise ConfigError(f"score: variant {run.variant} has no metric {score!r}; {hint}")


def _key_and_values(option: str, text: str) -> tuple[str, list[str]]:
    key, _, values = text.partition("=")
    if not key or not values:
        raise ConfigError(f"{option} {text!r} is not of the form dotted.key=value,value")
    return key, _split(values)


def _split(values: str) -> list[str]:
    """At commas outside of brackets."""
    parts, depth = [""], 0
    for char in values:
        depth += (char in "[{") - (char in "]}")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def _as_name(value: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", value).strip("-.") or "empty"
