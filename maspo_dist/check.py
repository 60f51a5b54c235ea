"""`maspo-dist check`: everything that can be said of a run before it starts."""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table

from maspo_dist.config import TrainConfig, dump_config
from maspo_dist.placement import Device, ModelSize, gibibytes, plan_bundles
from maspo_dist.preflight import Prepared, prepare


def check_run(config: TrainConfig, console: Console) -> None:
    """Validates model and data, then prints the resolved configuration, the data, placement and memory.

    Raises the same errors as `train` would before its first process.
    """
    prepared = prepare(config)
    console.print(dump_config(config), highlight=False, markup=False)
    console.print(_data(prepared))
    device = planned_device(config)
    console.print(_placement(config, prepared.model.size, device))


def planned_device(config: TrainConfig) -> Device:
    """The configured device; auto takes the GPU where this machine has one."""
    if config.model.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.model.device


def _data(prepared: Prepared) -> Table:
    table = Table("data set", "prompts", "dropped as too long", "longest, tokens", title="data", title_justify="left")
    for name, prompts in {"train": prepared.train, **prepared.evaluation}.items():
        longest = max(prompt.token_ids.size for prompt in prompts.prompts)
        table.add_row(name, str(len(prompts.prompts)), str(prompts.dropped_overlong), str(longest))
    return table


def _placement(config: TrainConfig, size: ModelSize, device: Device) -> Table:
    unit = "GPU" if device == "cuda" else "node"
    table = Table(
        "process",
        "count",
        "CPU each",
        "GPU each",
        f"{unit} memory each, about",
        "what",
        title=f"placement on {device}, {size.parameters / 1e6:.1f} M parameters",
        title_justify="left",
    )
    for bundle in plan_bundles(config, size, device):
        table.add_row(
            bundle.role,
            str(bundle.count),
            f"{bundle.cpus:g}",
            str(bundle.gpus),
            gibibytes(bundle.memory_bytes),
            bundle.what,
        )
    return table
