"""The commands that write data, for `actors.cli`; like it, they import what they need when they are called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from maspo_dist.errors import ConfigError


def demo(
    folder: Annotated[Path, typer.Argument(help="Where the model and data go.")] = Path(".cache/demo"),
    seed: Annotated[int, typer.Option(help="Seed of data, initial weights and warm start.")] = 0,
    task: Annotated[
        Literal["addition", "route", "calculator"],
        typer.Option(help="route: a rare first token opens the good route. calculator: a tool adds."),
    ] = "addition",
    initial: Annotated[
        float | None, typer.Option(min=1e-4, max=0.5, help="With --task route: first probability of that token (0.02).")
    ] = None,
) -> None:
    """Make the demo: a small model that adds a little, and problems it has not seen."""
    from maspo_dist.demo import CalculatorRecipe, DemoRecipe, RouteRecipe, make_demo, write_config

    if task != "route" and initial is not None:
        raise ConfigError("--initial is the probability of the rare route, so it needs --task route")
    route = RouteRecipe() if initial is None else RouteRecipe(initial_probability=initial)
    recipes: dict[str, DemoRecipe | RouteRecipe | CalculatorRecipe] = {
        "addition": DemoRecipe(),
        "route": route,
        "calculator": CalculatorRecipe(),
    }
    files = make_demo(folder, seed, recipes[task])
    print(f"model {files.model}, greedy held-out accuracy {files.start_accuracy:.3f}")
    if (start := files.route_start) is not None:
        print(
            f"good route: probability {start.opening_probability:.4f}, greedy accuracy {start.worked_accuracy:.3f}; "
            f"accuracy of sampled responses {start.sampled_accuracy:.3f}"
        )
    if (calculator := files.calculator_start) is not None:
        print(
            f"calculator: called with probability {calculator.call_probability:.4f}, greedy accuracy of calls "
            f"{calculator.call_accuracy:.3f}"
        )
    print(f"train {files.train}")
    print(f"held out {files.heldout}")
    print(f"configuration {write_config(files)}")


def reasoning_gym(
    task: Annotated[str, typer.Argument(help="A task of the package, such as chain_sum.")],
    to: Annotated[Path, typer.Argument(help="The JSON Lines file to write.")],
    size: Annotated[int, typer.Option(min=1, help="Problems.")] = 1000,
    seed: Annotated[int, typer.Option(help="Another seed gives other problems.")] = 0,
) -> None:
    """Write problems of a reasoning_gym TASK for data.train, with reasoning_gym as source and verifier."""
    from maspo_dist.reward.verifiers.gym import generate_rows

    lines = [json.dumps(row) + "\n" for row in generate_rows(task, size, seed)]
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text("".join(lines), encoding="utf-8")
    print(f"{len(lines)} problems: {to}")


def openenv(
    url: Annotated[str, typer.Argument(help="Address of the server, such as ws://localhost:8000.")],
    to: Annotated[Path, typer.Argument(help="The JSON Lines file to write.")],
    size: Annotated[int, typer.Option(min=1, help="Problems, one per seed.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="First seed; held-out problems need others.")] = 0,
    observation_field: Annotated[
        str | None, typer.Option(help="As environment.observation_field; all fields as JSON without it.")
    ] = None,
) -> None:
    """Write what an OpenEnv server says at reset, as problems for data.train and environment.kind."""
    from maspo_dist.environments.openenv import server_rows

    rows = list(server_rows(url, size, seed, observation_field))
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} problems: {to}")
    if size > 1 and len({row["problem"] for row in rows}) == 1:
        print(
            "note: the server says the same to every seed; if its reset takes no seed, the responses to one problem "
            "play different games"
        )
