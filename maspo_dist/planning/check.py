"""`maspo-dist check`: everything that is known of a run before it starts.

A recipe is often checked where it will not run: its model is a hub name that cannot be looked up here, its
data are in a folder that this machine has not got. Those are listed, and whatever can be checked without
them is. Any other mistake is refused as `train` would refuse it.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from maspo_dist.config import TrainConfig, dump_config
from maspo_dist.data.prompts import PromptSet
from maspo_dist.data.rows import HUB_PREFIX, RowFields, read_rows
from maspo_dist.errors import HubUnreachableError
from maspo_dist.models.facts import ModelFacts
from maspo_dist.models.hub import KNOWN_SIZES, hub_is_reachable
from maspo_dist.models.path import is_hub_name
from maspo_dist.models.size import ModelSize
from maspo_dist.planning.placement import Device, gibibytes, pick_device, plan_bundles
from maspo_dist.planning.preflight import inspect_model, load_data, require_context
from maspo_dist.runs.metrics import require_sinks


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """One data set: its prompts if model and files exist here, else its number of rows, else neither."""

    name: str
    prompts: PromptSet | None
    rows: int | None


def check_run(config: TrainConfig, console: Console) -> None:
    """Validates model and data, then prints the resolved configuration, the data, placement and memory.

    Raises the same errors as `train` would before its first process, but for what is not on this machine yet.
    """
    require_sinks(config.logging)
    missing: list[str] = []
    model = _model_facts(config, missing)
    size = model.size if model else KNOWN_SIZES.get(config.model.path)
    if size is not None:
        require_context(config, size)
    data = [
        _data_facts(config, name, paths, model, missing)
        for name, paths in {"train": config.data.train, **{k: [v] for k, v in config.data.eval.items()}}.items()
    ]
    console.print(dump_config(config), highlight=False, markup=False)
    console.print(_data(data))
    if size is None:
        console.print(f"placement and memory: unknown until {config.model.path} can be read")
    else:
        console.print(_placement(config, size, pick_device(config.model.device, has_gpu=torch.cuda.is_available())))
    if missing:
        console.print("the configuration is valid; to train, this machine still lacks", highlight=False)
        for entry in missing:
            console.print(f"  {entry}", highlight=False, markup=False)
    else:
        console.print("the configuration is valid, model and data are here", highlight=False)


def _model_facts(config: TrainConfig, missing: list[str]) -> ModelFacts | None:
    path = config.model.path
    if not is_hub_name(path) and _is_elsewhere(path):
        missing.append(f"model {path}")
        return None
    try:
        return inspect_model(config)
    except HubUnreachableError:
        missing.append(f"model {path}: neither cached here nor can a hub be reached")
        return None


def _data_facts(
    config: TrainConfig, name: str, data_sets: list[str], model: ModelFacts | None, missing: list[str]
) -> DataFacts:
    absent = [data_set for data_set in data_sets if _is_elsewhere(data_set)]
    missing += [f"data {data_set}" for data_set in absent]
    if absent:
        return DataFacts(name=name, prompts=None, rows=None)
    if model is not None:
        return DataFacts(name=name, prompts=load_data(config, data_sets, model), rows=None)
    section = config.data
    fields = RowFields(problem=section.problem_field, answer=section.answer_field, source=section.source_field)
    return DataFacts(name=name, prompts=None, rows=sum(len(read_rows(data_set, fields)) for data_set in data_sets))


def _is_elsewhere(name: str) -> bool:
    """Whether a data set or model folder may exist on another machine.

    A hub name where no hub answers; a path in a folder that is missing altogether and resembles nothing
    here. What is missing in a folder that exists, or in one that resembles it, is a slip.
    """
    if name.startswith(HUB_PREFIX):
        return not hub_is_reachable()
    path = Path(name)
    lineage = [path, *path.parents]
    first = next(i for i, place in enumerate(lineage) if place.exists())
    if first <= 1:
        return False
    folder, absent = lineage[first], lineage[first - 1]
    return not difflib.get_close_matches(absent.name, [entry.name for entry in folder.iterdir()], n=1)


def _data(facts: list[DataFacts]) -> Table:
    table = Table("data set", "prompts", "dropped as too long", "longest, tokens", title="data", title_justify="left")
    for fact in facts:
        if fact.prompts is not None:
            longest = max(prompt.token_ids.size for prompt in fact.prompts.prompts)
            table.add_row(fact.name, str(len(fact.prompts.prompts)), str(fact.prompts.dropped_overlong), str(longest))
        else:
            table.add_row(fact.name, "not here" if fact.rows is None else f"{fact.rows} rows", "?", "?")
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
