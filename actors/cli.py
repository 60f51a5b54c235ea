"""The command line: `maspo-dist`.

Exit codes: 0 done, 1 the run failed, 2 the input cannot run, 130 interrupted (Ctrl-C), 143 terminated.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from actors.commands.comparison import compare, compare_table, lane
from actors.commands.data import demo, openenv, reasoning_gym
from actors.commands.exit_codes import explain
from maspo_dist import __version__
from maspo_dist.errors import ConfigError, MaspoError, UserError
from maspo_dist.views.screen import open_screen

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Reinforcement learning with verifiable rewards by MASPO, on Ray, vLLM and DeepSpeed.",
)

Texts = list[str] | None
ConfigPath = Annotated[Path, typer.Argument(help="YAML configuration, such as configs/local_smoke.yaml.")]
RunPath = Annotated[Path, typer.Argument(help="A run folder, such as runs/local_smoke.")]
Overrides = Annotated[Texts, typer.Argument(help="Any number of dotted.key=value.")]

#: Each is a module of actors.bench, imported on demand; its `run()` yields the lines.
BENCHES = (
    "controller",
    "checkpoint",
    "rollout",
    "weight-sync",
    "learner",
    "learner-attention",
    "learner-update",
    "step",
    "verifier",
    "environments",
    "math",
    "data",
    "reasoning-gym",
    "run-folder",
    "run-memory",
    "plan",
    "gpu",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"maspo-dist {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of `maspo-dist` itself."""


@app.command()
def train(
    config: ConfigPath,
    overrides: Overrides = None,
    allow_config_change: Annotated[bool, typer.Option(help="Resume even if CONFIG now trains something else.")] = False,
) -> None:
    """Train with CONFIG; joins the Ray cluster at RAY_ADDRESS, or starts a cluster here."""
    from actors.ray.token import present_token

    if "RAY_ADDRESS" in os.environ:
        present_token()
    from maspo_dist.config import load_config
    from maspo_dist.models.path import require_model

    loaded = load_config(config, overrides or ())
    require_model(loaded.model.path)
    # This import takes seconds, and a mistake in the configuration is reported before it.
    from actors.commands.training import train as run_training

    run_training(loaded, allow_config_change=allow_config_change)


@app.command()
def check(config: ConfigPath, overrides: Overrides = None) -> None:
    """Validate CONFIG; print it resolved, with placement and memory. Starts nothing."""
    from maspo_dist.config import load_config

    loaded = load_config(config, overrides or ())
    from actors.commands.backends import require_backends
    from maspo_dist.planning.check import check_run

    require_backends(loaded)
    check_run(loaded, open_screen())


@app.command()
def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    gpu: Annotated[
        str, typer.Option(help="The GPU to rent, such as H100, H200, A100, L40S, RTX 4090 or B200.")
    ] = "H100",
    prompt_tokens: Annotated[int | None, typer.Option(min=1, help="Mean; default half of the longest.")] = None,
    response_tokens: Annotated[int | None, typer.Option(min=1, help="Mean; default half of the longest.")] = None,
) -> None:
    """Forecast memory, seconds per step and hours of CONFIG on GPUs. Starts nothing."""
    from maspo_dist.config import load_config
    from maspo_dist.planning.plan import assumed_lengths, print_plan

    loaded = load_config(config, overrides or ())
    print_plan(loaded, gpu, assumed_lengths(loaded, prompt_tokens, response_tokens), open_screen())


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Argument(help="A YAML configuration that is to run.")] = None,
    overrides: Overrides = None,
) -> None:
    """Say what is wrong with this machine, or with each node of the cluster at RAY_ADDRESS, and how to fix it.

    Exit code 1 if something prevents a run (of CONFIG).
    """
    from actors.ray.token import present_token

    if "RAY_ADDRESS" in os.environ:
        present_token()
    from maspo_dist.config import load_config

    loaded = None if config is None else load_config(config, overrides or ())
    from actors.commands.doctor import doctor as examine

    if not examine(loaded, open_screen()):
        raise typer.Exit(1)


@app.command()
def submit(
    config: ConfigPath,
    overrides: Annotated[Texts, typer.Argument(help="dotted.key=value; slurm.key=value is of the cluster.")] = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="Submit to Slurm.")] = False,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of the job.")] = 1,
    cluster: Annotated[
        Path | None, typer.Option(help="Describes the cluster; default slurm.yaml beside CONFIG.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the script; write and submit nothing.")] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Submit although this machine lacks the model or data of CONFIG.")
    ] = False,
) -> None:
    """Check CONFIG and submit it as a job that saves before its time limit and goes on in a next job."""
    if not slurm:
        raise UserError("submit needs --slurm; to a running Ray cluster, submit with `ray job submit` (make submit)")
    from actors.commands.submit import submit_to_slurm

    submit_to_slurm(config, overrides or (), cluster, nodes, is_dry=dry_run, allows_missing=anyway)


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Option(help="Folder of the model (or a hub name).")],
    overrides: Annotated[Texts, typer.Argument(help="dotted.key=value of EvaluationConfig, any number.")] = None,
    data: Annotated[Texts, typer.Option(help="A held-out set: FILE or NAME=FILE; may be repeated.")] = None,
    preset: Annotated[str | None, typer.Option(help="Known sets with files in --data-dir: paper (six sets).")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with the files of --preset.")] = None,
    samples: Annotated[int, typer.Option(help="Responses per problem.")] = 1,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy; default 0 for 1 sample, else 1.")] = None,
    top_p: Annotated[float, typer.Option(help="Share of probability to sample from, likeliest tokens first.")] = 1.0,
    max_response_tokens: Annotated[int | None, typer.Option(help="Longest response; default 2048.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of all sampling.")] = 0,
    workers: Annotated[int | None, typer.Option(help="vLLM engines; default: all GPUs, or 1 without any.")] = None,
    template: Annotated[str | None, typer.Option(help="chat (default), none, or text with {problem}.")] = None,
    verifier: Annotated[str | None, typer.Option(help="The verifier; default math.")] = None,
    dtype: Annotated[str | None, typer.Option(help="bfloat16 (default) or float32.")] = None,
    to: Annotated[Path | None, typer.Option(help="Output folder; default evals/<model>-<settings>.")] = None,
) -> None:
    """Score MODEL on held-out sets: avg@k, pass@k, majority@n. A second call continues where the first one stopped."""
    from maspo_dist.evaluation.options import eval_config
    from maspo_dist.models.path import require_model

    sampling = {"temperature": temperature, "top_p": top_p, "max_response_tokens": max_response_tokens}
    options: dict[str, dict[str, object]] = {
        "model": {"path": model, "dtype": dtype},
        "data": {"template": template},
        "sampling": {"samples": samples, "seed": seed, **sampling},
        "rollout": {"workers": workers},
        "reward": {"default": verifier},
    }
    settings = eval_config(options, data=data or (), preset=preset, data_dir=data_dir, overrides=overrides or ())
    require_model(settings.model.path)
    # Imported late, as in `train`.
    from actors.commands.evaluation import evaluate as run_evaluation

    run_evaluation(settings, to)


app.command()(demo)


@app.command()
def status(run: RunPath) -> None:
    """Show how far RUN is: its last step, its prompts and its events."""
    from maspo_dist.runs.folder import RunFolder
    from maspo_dist.views.status import render_status

    open_screen().print(render_status(RunFolder.open_for_reading(run)))


@app.command()
def scale(
    run: Annotated[str, typer.Argument(help="A live run: its folder, or its name on the cluster at RAY_ADDRESS.")],
    rollout_workers: Annotated[int, typer.Option(min=1, help="The wanted number.")],
) -> None:
    """Change the number of rollout workers of a live RUN; nothing else restarts."""
    from actors.ray.token import present_token

    present_token()
    from actors.commands.scaling import request_workers

    request_workers(run, rollout_workers, print)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="One run folder, or several to compare.")],
    to: Annotated[Path | None, typer.Option(help="The HTML file; by default report.html of the first run.")] = None,
) -> None:
    """Write report.html of one or more runs."""
    from maspo_dist.views.report import write_report

    _require_place(to)
    out = to or runs[0] / "report.html"
    write_report(runs, out)
    print(out)


@app.command()
def metrics(
    dashboard: Annotated[bool, typer.Option("--dashboard", help="Print a Grafana dashboard of them as JSON.")] = False,
) -> None:
    """Explain every metric of metrics.jsonl and of Prometheus, and every kind of event of events.jsonl."""
    if dashboard:
        from maspo_dist.views.dashboard import dashboard as make_dashboard

        print(json.dumps(make_dashboard(), indent=1, ensure_ascii=False))
        return
    from maspo_dist.views.catalogue import catalogue_tables

    open_screen().print(catalogue_tables())


@app.command()
def export(
    run: RunPath,
    to: Annotated[Path, typer.Option(help="The folder to write: empty, or not there yet.")],
    step: Annotated[str | None, typer.Option(help="Step of a checkpoint, or best; by default the newest.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16; by default model.dtype of the run.")] = None,
    max_shard_size: Annotated[str, typer.Option(help="Largest weights file.")] = "5GB",
    adapter: Annotated[
        bool, typer.Option("--adapter", help="The adapters of learner.lora, for peft and vLLM.")
    ] = False,
) -> None:
    """Write a checkpoint of RUN as a Hugging Face folder, for transformers and vLLM; adapters are merged."""
    from actors.commands.export import export_adapter, export_run

    if adapter:
        print(export_adapter(run, to, step=step, dtype=dtype), "→", to)
    else:
        print(export_run(run, to, step=step, dtype=dtype, max_shard_size=max_shard_size), "→", to)


@app.command()
def replay(
    run: RunPath,
    step: Annotated[int, typer.Option(help="A step that logging.record_steps kept.")],
) -> None:
    """Recompute one recorded step of RUN in one CPU process; exit code 1 if its numbers differ."""
    from actors.commands.replay import replay_lines, replay_step

    numbers = replay_step(run, step)
    for line in replay_lines(numbers):
        print(line)
    if not all(number.agrees for number in numbers):
        raise typer.Exit(1)


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(BENCHES)}.")],
    only: Annotated[Texts, typer.Option(help="Of gpu: a check to run, such as attention; may be repeated.")] = None,
    device: Annotated[str, typer.Option(help="Of gpu: cuda, or cpu together with --tiny.")] = "cuda",
    tiny: Annotated[bool, typer.Option(help="Of gpu: tiny models, to try the checks themselves.")] = False,
) -> None:
    """Measure NAME on this machine; prints one JSON object per line. `gpu` exits with 1 if a check fails."""
    if name not in BENCHES:
        raise UserError(f"there is no bench {name!r}: choose one of {', '.join(BENCHES)}")
    if name == "gpu":
        from actors.bench.gpu.run import run_checks
        from actors.bench.gpu.setting import make_setting

        if not run_checks(only or (), make_setting(device, is_tiny=tiny), lambda line: print(line, flush=True)):
            raise typer.Exit(1)
        return
    from actors.bench.lines import BenchLine

    lines: Iterator[BenchLine] = import_module(f"actors.bench.{name.replace('-', '_')}").run()
    for line in lines:
        print(line.to_json(), flush=True)


@app.command()
def rescore(
    run: RunPath,
    overrides: Annotated[Texts, typer.Argument(help="What to score with, such as reward.default=exact.")] = None,
    to: Annotated[Path | None, typer.Option(help="By default samples-rescored.jsonl of the run.")] = None,
) -> None:
    """Score the samples of RUN again, by its configuration with other verifiers."""
    from maspo_dist.config import load_config
    from maspo_dist.reward.rescore import rescore as score_again
    from maspo_dist.runs.folder import RunFolder

    folder = RunFolder.open_for_reading(run)
    _require_place(to)
    out = to or run / "samples-rescored.jsonl"
    print(score_again(folder.samples_path, out, load_config(folder.config_path, overrides or ()).reward))
    print(out)


app.command()(reasoning_gym)
app.command()(openenv)
app.command()(compare)
app.command()(compare_table)
app.command(hidden=True)(lane)


def main() -> None:
    """The entry point. Users' mistakes and expected failures are one line; bugs keep their traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal whose encoding lacks a character shows its code.
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except TyperException as error:
        # Without arguments, typer has printed its help and there is nothing left to say.
        if error.format_message():
            print(f"error: {_mistake(error)}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (MaspoError, OSError) as error:
        sys.exit(explain(error))


def _require_place(to: Path | None) -> None:
    """Raises ConfigError unless a file can stand at `to`, before the work that would be lost."""
    if to is not None and to.is_dir():
        raise ConfigError(f"--to {to} is a folder: name a file in it")
    if to is not None and not to.parent.is_dir():
        raise ConfigError(f"--to {to}: there is no folder {to.parent}: make it, or name another file")


def _mistake(error: TyperException) -> str:
    """One sentence with the option, its value, what it may be, and where to read more."""
    sentence = " ".join(error.format_message().split()).replace("Value error, ", "").rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{sentence}; see {context.command_path} --help" if context else sentence


if __name__ == "__main__":
    main()
