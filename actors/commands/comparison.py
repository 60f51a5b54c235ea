"""The commands of comparisons, for `actors.cli`; like it, they import what they need when they are called."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Annotated

import typer

from maspo_dist.errors import ConfigError
from maspo_dist.views.screen import open_screen

Texts = list[str] | None


def compare(
    config: Annotated[Path, typer.Argument(help="A configuration, or a file of variants (configs/compare_demo.yaml).")],
    overrides: Annotated[Texts, typer.Argument(help="dotted.key=value of every run, {seed} being its seed.")] = None,
    vary: Annotated[Texts, typer.Option(help="dotted.key=value,value: one variant per value.")] = None,
    variant: Annotated[Texts, typer.Option(help="'NAME: dotted.key=value …'; may be repeated.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Such as 0-4 or 0,3,7; default 0-4, or the file's.")] = None,
    name: Annotated[str | None, typer.Option(help="Folder of all runs, under run.dir.")] = None,
    score: Annotated[str | None, typer.Option(help="Metric; default avg@k of the first held-out set.")] = None,
    reach: Annotated[float | None, typer.Option(help="Score; runs are compared by their first step with it.")] = None,
    against: Annotated[str | None, typer.Option(help="Variant to test the others against; default the first.")] = None,
    only: Annotated[str | None, typer.Option(help="Variants to keep, such as maspo,grpo; default all.")] = None,
    tune: Annotated[Texts, typer.Option(help="dotted.key=value,value: picks each variant's value first.")] = None,
    tune_seeds: Annotated[str | None, typer.Option(help="Seeds of the tuning runs; default 100-102.")] = None,
    tune_by: Annotated[str | None, typer.Option(help="Measure that picks; default area, of the score's curve.")] = None,
    earlier: Annotated[Path | None, typer.Option(help="results.json; runs that it holds are not trained.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once.")] = 1,
    launcher: Annotated[str, typer.Option(help="Put before the command of each process, such as 'nice -n 10'.")] = "",
) -> None:
    """Train variants × seeds at equal samples, each tuned if asked; one report with paired tests.

    A second call continues the first one.
    """
    from maspo_dist.compare.earlier import Earlier
    from maspo_dist.compare.options import make_settings
    from maspo_dist.compare.plan import make_plan, require_inputs
    from maspo_dist.compare.run import compare as run_comparison

    prefix = _launcher_words(launcher)
    _require_rereadable(config)
    options = {"seeds": seeds, "name": name, "score": score, "reach": reach, "against": against}
    options |= {"tune_seeds": tune_seeds, "tune_by": tune_by}
    settings, base = make_settings(
        config, options, overrides=overrides or (), varied=vary or (), named=variant or (), tuned=tune or (), only=only
    )
    known = None if earlier is None else Earlier(earlier)
    if known is not None:
        settings = known.with_reach(settings)
    plan = make_plan(settings, base)
    if known is not None:
        known.require_like(plan)
    require_inputs(plan)
    run_comparison(plan, jobs, prefix, open_screen(), known)


def compare_table(results: Annotated[list[Path], typer.Argument(help="results.json of a comparison.")]) -> None:
    """Print the table of each comparison in Markdown."""
    from maspo_dist.compare.markdown import markdown_table

    print("\n".join(map(markdown_table, results)), end="")


def _launcher_words(launcher: str) -> list[str]:
    """Raises ConfigError where the launcher cannot start a process."""
    try:
        words = shlex.split(launcher)
    except ValueError as error:
        raise ConfigError(f"--launcher {launcher!r} cannot be split into words ({error}): correct its quotes") from None
    if words and shutil.which(words[0]) is None:
        raise ConfigError(f"--launcher {launcher!r}: no program {words[0]!r} is on the PATH here: correct its name")
    return words


def _require_rereadable(config: Path) -> None:
    """Raises ConfigError for a pipe such as <(…), which only the first of many readers could read."""
    if config.exists() and not config.is_file() and not config.is_dir():
        raise ConfigError(f"config {config} is no regular file, and every run reads it again: save it to a file")


def lane() -> None:
    """Train the runs that standard input names, for `compare`."""
    # Nothing but the answers may reach `compare`, and imports print.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from actors.ray.token import present_token

    if "RAY_ADDRESS" in os.environ:
        present_token()
    from actors.commands.lane import train_in_turn

    train_in_turn(answers)
