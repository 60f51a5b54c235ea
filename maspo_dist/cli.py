"""The command line: `maspo-dist`.

Exit codes: 0 done, 1 the run failed, 2 the user's input cannot run, 130 interrupted (Ctrl-C), 143 terminated.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from maspo_dist.errors import MaspoError, UserError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Reinforcement learning with verifiable rewards by MASPO, on Ray, vLLM and DeepSpeed.",
)

ConfigPath = Annotated[Path, typer.Argument(help="YAML configuration, such as configs/local_smoke.yaml.")]
Texts = list[str] | None
Overrides = Annotated[list[str] | None, typer.Argument(help="Any number of dotted.key=value.")]


@app.command()
def train(config: ConfigPath, overrides: Overrides = None) -> None:
    """Train as CONFIG says; joins the Ray cluster at RAY_ADDRESS, or starts one here."""
    from actors.training import train as run_training
    from maspo_dist.config import load_config

    run_training(load_config(config, overrides or ()))


@app.command()
def check(config: ConfigPath, overrides: Overrides = None) -> None:
    """Validate CONFIG; print it resolved, with placement and memory. Starts nothing."""
    from maspo_dist.check import check_run
    from maspo_dist.config import load_config

    check_run(load_config(config, overrides or ()), Console(soft_wrap=True))


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Option(help="Folder of the model (or a hub name).")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Any number of dotted.key=value of EvalConfig.")] = None,
    data: Annotated[list[str] | None, typer.Option(help="A held-out set: FILE or NAME=FILE; may be repeated.")] = None,
    preset: Annotated[str | None, typer.Option(help="Known sets, found in --data-dir: paper (six benchmarks).")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with the files of --preset.")] = None,
    samples: Annotated[int, typer.Option(help="Responses a problem.")] = 1,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy; default 0 for 1 sample, else 1.")] = None,
    top_p: Annotated[float, typer.Option(help="Share of probability drawn from, likeliest first.")] = 1.0,
    max_response_tokens: Annotated[int | None, typer.Option(help="Longest response; default 2048.")] = None,
    seed: Annotated[int, typer.Option(help="Of all sampling.")] = 0,
    workers: Annotated[int | None, typer.Option(help="vLLM engines; default: all GPUs, or 1 without any.")] = None,
    template: Annotated[str | None, typer.Option(help="chat (default), none, or text with {problem}.")] = None,
    verifier: Annotated[str | None, typer.Option(help="What scores; default math.")] = None,
    dtype: Annotated[str | None, typer.Option(help="bfloat16 (default) or float32.")] = None,
    to: Annotated[Path | None, typer.Option(help="Output folder; default evals/<model>-<settings>.")] = None,
) -> None:
    """Score MODEL on held-out sets: avg@k, pass@k, majority@k. Run again, it goes on where it stopped."""
    from actors.evaluation_run import evaluate as run_evaluation
    from maspo_dist.evaluation.options import EvalOptions, eval_config

    options = EvalOptions(
        model=model,
        data=data or (),
        preset=preset,
        data_dir=data_dir,
        samples=samples,
        temperature=temperature,
        top_p=top_p,
        max_response_tokens=max_response_tokens,
        seed=seed,
        workers=workers,
        template=template,
        verifier=verifier,
        dtype=dtype,
        overrides=overrides or (),
    )
    run_evaluation(eval_config(options), to)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where the model and data go.")] = Path(".cache/demo"),
    seed: Annotated[int, typer.Option(help="Of data, initial weights and warm start.")] = 0,
) -> None:
    """Make the demo: a small model that adds a little, and problems it has not seen."""
    from maspo_dist.demo import make_demo

    files = make_demo(folder, seed)
    print(f"model {files.model}, greedy held-out accuracy {files.start_accuracy:.3f}")
    print(f"train {files.train}")
    print(f"held out {files.heldout}")


@app.command()
def status(run: Annotated[Path, typer.Argument(help="A run folder, such as runs/local_smoke.")]) -> None:
    """Show how far RUN is: its last step, its prompts and its events."""
    from maspo_dist.run_folder import RunFolder
    from maspo_dist.status import render_status

    Console().print(render_status(RunFolder.open_for_reading(run)))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="One run folder, or several to compare.")],
    to: Annotated[Path | None, typer.Option(help="The HTML file; by default report.html of the first run.")] = None,
) -> None:
    """Write report.html of one or more runs."""
    from maspo_dist.report import write_report

    out = to or runs[0] / "report.html"
    write_report(runs, out)
    print(out)


@app.command()
def compare(
    config: Annotated[Path, typer.Argument(help="A configuration, or a file of variants (configs/compare_demo.yaml).")],
    overrides: Annotated[Texts, typer.Argument(help="dotted.key=value of every run, {seed} being its seed.")] = None,
    vary: Annotated[Texts, typer.Option(help="dotted.key=value,value: a variant each.")] = None,
    variant: Annotated[Texts, typer.Option(help="'NAME: dotted.key=value …'; may be repeated.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Such as 0-4 or 0,3,7; default 0-4, or the file's.")] = None,
    name: Annotated[str | None, typer.Option(help="Folder of all runs, under run.dir.")] = None,
    score: Annotated[str | None, typer.Option(help="Metric; default avg@k of the first held-out set.")] = None,
    reach: Annotated[float | None, typer.Option(help="Score whose first step is compared.")] = None,
    against: Annotated[str | None, typer.Option(help="The others are tested against it; default the first.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once.")] = 1,
    launcher: Annotated[str, typer.Option(help="Put before each run's command, such as 'nice -n 10'.")] = "",
) -> None:
    """Train variants × seeds at equal samples, into one report with paired tests. Run again, it goes on."""
    from maspo_dist.compare.options import CompareOptions, make_settings
    from maspo_dist.compare.plan import make_plan
    from maspo_dist.compare.run import compare as run_comparison

    options = CompareOptions(
        config=config,
        overrides=overrides or (),
        vary=vary or (),
        variants=variant or (),
        seeds=seeds,
        name=name,
        score=score,
        reach=reach,
        against=against,
    )
    plan = make_plan(*make_settings(options))
    run_comparison(plan, jobs, shlex.split(launcher), Console(soft_wrap=True))


def main() -> None:
    """The entry point: users' mistakes and expected failures are one line, bugs keep their traceback."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except MaspoError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
