"""`maspo-dist plan`: what a run will need, and how long it will take, before a GPU is rented."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from maspo_dist.config import TrainConfig
from maspo_dist.errors import UserError
from maspo_dist.models.size import KNOWN_SIZES, ModelSize
from maspo_dist.planning.accelerators import ACCELERATORS, Accelerator
from maspo_dist.planning.forecast import (
    Lengths,
    StepForecast,
    advice,
    engine_bytes,
    fits,
    forecast_step,
    full_sequences,
)
from maspo_dist.planning.placement import engine_memory, learner_memory, learner_name, weight_width
from maspo_dist.planning.preflight import inspect_model, require_divisible_heads


def print_plan(config: TrainConfig, gpu_name: str, lengths: Lengths, console: Console) -> None:
    """Prints memory by process and at the start, seconds by phase, hours, and advice. Reads no data and starts nothing.

    Raises UserError for a GPU that is not in the table and for a configuration that is not for GPUs, ModelError if the
    shape of the model is neither known nor readable here, ConfigError if ranks or GPUs cannot share its heads.
    """
    gpu = _gpu(gpu_name)
    if config.model.device == "cpu":
        raise UserError("model.device is cpu, but a plan is for GPUs: add model.device=cuda")
    if config.model.dtype != "bfloat16":
        raise UserError(f"model.dtype is {config.model.dtype}, but a plan is for bfloat16: add model.dtype=bfloat16")
    size = KNOWN_SIZES.get(config.model.path) or inspect_model(config).size
    require_divisible_heads(config, size)
    forecast = forecast_step(config, size, gpu, lengths)
    workers, parallel = config.rollout.first_workers, config.rollout.tensor_parallel
    ranks, engines = config.learner.ranks, f"{workers} × {parallel}"
    gpus, shared = ranks + workers * parallel, ""
    if config.cluster.layout == "colocated":
        gpus, shared = ranks, "the same as "
    console.print(
        f"{gpus} × {gpu.name}: {ranks} for the learner, {shared}{engines} for engines; assumed means: "
        f"{lengths.prompt_tokens:,} tokens per prompt, {lengths.response_tokens:,} per response",
        highlight=False,
    )
    console.print(_memory(config, size, gpu))
    console.print(
        f"while it starts, the learner ranks of a node share the pages of the model's files: "
        f"{weight_width(config.model) * size.parameters / 1e9:.1f} GB of main memory per node; "
        "files of another dtype are copied by each rank",
        highlight=False,
    )
    if fits(config, size, gpu):
        hours = config.run.max_steps * forecast.step_s / 3600
        console.print(_seconds(forecast))
        console.print(
            f"{hours:,.1f} hours for run.max_steps={config.run.max_steps}, evaluations aside", highlight=False
        )
    else:
        console.print("the run does not fit into this memory, so no time is forecast for it", highlight=False)
    for sentence in advice(config, size, gpu, lengths):
        console.print(f"note: {sentence}", highlight=False)


def assumed_lengths(config: TrainConfig, prompt_tokens: int | None, response_tokens: int | None) -> Lengths:
    """The given means, or half of the longest allowed. Raises UserError for a mean above the longest."""
    longest = config.rollout.max_response_tokens
    if response_tokens is not None and response_tokens > longest:
        raise UserError(
            f"--response-tokens is {response_tokens}, but rollout.max_response_tokens is {longest}: lower it"
        )
    return Lengths(
        prompt_tokens=prompt_tokens or max(1, config.data.max_prompt_tokens // 2),
        response_tokens=response_tokens or max(1, longest // 2),
    )


def _gpu(name: str) -> Accelerator:
    found = next((entry for entry in ACCELERATORS if entry.name.lower() == name.lower()), None)
    if found is None:
        raise UserError(
            f"there is no GPU {name!r} in the table: choose one of {', '.join(e.name for e in ACCELERATORS)}"
        )
    return found


def _memory(config: TrainConfig, size: ModelSize, gpu: Accelerator) -> Table:
    learner, engine = learner_memory(config, size, "cuda"), engine_memory(config, size, "cuda")
    taken_bytes, sequences = engine_bytes(config, gpu), full_sequences(config, size, gpu)
    rest = f"  the rest, for {sequences:,} sequences at full length"
    if sequences < 0:
        rest = "  the rest: its weights are larger than vLLM's share"
    table = Table(
        "process", "count", "GB", title=f"memory, of {gpu.memory_bytes / 1e9:.0f} GB per GPU", title_justify="left"
    )
    rows = (
        (f"learner, {learner_name(config.learner)}", config.learner.ranks, learner.total_bytes),
        ("  weights", None, learner.weights_bytes),
        ("  gradients", None, learner.gradients_bytes),
        ("  optimizer", None, learner.optimizer_bytes),
        ("  activations", None, learner.activations_bytes),
        ("  logits and gradient of the head", None, learner.head_bytes),
        *([("  in main memory instead", None, learner.host_bytes)] if learner.host_bytes else []),
        (f"engine, tensor parallel {config.rollout.tensor_parallel}", config.rollout.first_workers, taken_bytes),
        ("  weights", None, engine.weights_bytes),
        (rest, None, max(0, taken_bytes - engine.weights_bytes)),
    )
    for what, count, held_bytes in rows:
        table.add_row(what, "" if count is None else str(count), f"{held_bytes / 1e9:.1f}")
    return table


def _seconds(forecast: StepForecast) -> Table:
    table = Table("phase", "seconds", "tokens per second", title="one step", title_justify="left")
    for phase, seconds in (
        ("generate", forecast.generate_s),
        ("update", forecast.update_s),
        ("publish", forecast.publish_s),
        *([("turns", forecast.turns_s)] if forecast.turns_s else []),
        ("step", forecast.step_s),
    ):
        rate = "" if phase in ("publish", "turns") else f"{forecast.tokens / seconds:,.0f}"
        table.add_row(phase, f"{seconds:,.1f}", rate)
    return table
