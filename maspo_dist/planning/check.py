"""`maspo-dist check`: what is known of a run before it starts.

A recipe is often checked on a machine that has neither its model nor its data. What is missing is listed, and
everything else is checked. Any other mistake is refused as `train` refuses it.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table

from maspo_dist.algorithm import check_loss
from maspo_dist.config import TrainConfig, dump_config
from maspo_dist.data.prompts import PromptSet
from maspo_dist.data.rows import HUB_PREFIX, read_rows
from maspo_dist.environments.schemas import require_environment
from maspo_dist.errors import ConfigError, HubUnreachableError
from maspo_dist.models.facts import ModelFacts, hub_is_reachable
from maspo_dist.models.path import is_hub_name
from maspo_dist.models.size import KNOWN_SIZES, ModelSize
from maspo_dist.planning.environment import EnvironmentFindings, inspect_environment
from maspo_dist.planning.placement import Device, pick_device, plan_bundles
from maspo_dist.planning.preflight import (
    inspect_model,
    load_data,
    require_best,
    require_context,
    require_divisible_heads,
    require_sources,
)
from maspo_dist.planning.transport import choose_transport
from maspo_dist.reward.registry import check_rewards, reference_problems
from maspo_dist.runs.checkpoint import require_good
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.metrics import require_sinks

#: A data set: its prompts if model and files are on this machine, else its number of rows, else nothing.
DataFacts = PromptSet | int | None

#: Longest prompt or conversation that is printed whole, in characters.
_SHOWN_CHARS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspected:
    """What is known of a run before it starts.

    size     the shape of the model, None where it is not known here
    data     facts of each data set, by its name
    found    what its environment does
    missing  models, data and checkpoints that this machine lacks
    """

    size: ModelSize | None
    data: Mapping[str, DataFacts]
    found: EnvironmentFindings
    missing: Sequence[str]


def inspect_run(config: TrainConfig) -> Inspected:
    """Reads the model and the data.

    Raises the errors that `train` raises before its first process, except for what this machine lacks.
    """
    require_sinks(config.logging)
    require_best(config)
    check_loss(config.algorithm.loss)
    check_rewards(config.reward)
    require_environment(config.environment)
    missing: list[str] = []
    _require_folders(config, missing)
    model = _model_facts(config, missing)
    size = model.size if model else KNOWN_SIZES.get(config.model.path)
    if size is not None:
        require_divisible_heads(config, size)
        require_context(config, size)
    data_sets = {"train": config.data.train} | {name: [path] for name, path in config.data.eval.items()}
    data = {name: _data_facts(config, paths, model, missing) for name, paths in data_sets.items()}
    loaded = [prompts for prompts in data.values() if isinstance(prompts, PromptSet)]
    if len(loaded) == len(data):
        require_sources(config.reward, loaded)
    train = data["train"]
    found = inspect_environment(config, train if isinstance(train, PromptSet) else None)
    return Inspected(size=size, data=data, found=found, missing=missing)


def run_notes(config: TrainConfig, inspected: Inspected) -> Iterator[str]:
    """What may be wrong with the run, one sentence each."""
    for name, prompts in inspected.data.items():
        if isinstance(prompts, PromptSet):
            yield from _set_notes(config, name, prompts)
    yield from learner_notes(config, inspected.size)
    yield from inspected.found.notes


def check_run(config: TrainConfig, console: Console) -> None:
    """Validates the run as `inspect_run` does, then prints its resolved configuration, data, placement and memory."""
    inspected = inspect_run(config)
    size, missing = inspected.size, inspected.missing
    console.print(dump_config(config), highlight=False, markup=False)
    console.print(_data(inspected.data))
    for name, prompts in inspected.data.items():
        if isinstance(prompts, PromptSet):
            for block in _blocks(config, name, prompts):
                console.print(block, highlight=False, markup=False)
            for note in _set_notes(config, name, prompts):
                console.print(f"note: {note}", highlight=False, markup=False)
    for source, conversation in inspected.found.conversations:
        title = f"train, source {source}: an example conversation, in which the turns of the model are made up:"
        console.print("\n".join([title, *_quoted(conversation)]), highlight=False, markup=False)
    for note in (*learner_notes(config, size), *inspected.found.notes):
        console.print(f"note: {note}", highlight=False, markup=False)
    if size is None:
        console.print(f"placement and memory: unknown until {config.model.path} can be read", markup=False)
    else:
        device = pick_device(config.model.device, has_gpu=torch.cuda.is_available())
        console.print(_placement(config, size, device))
        transport = choose_transport(config, device)
        console.print(f"weights travel by {transport.name}: {transport.reason}", highlight=False, markup=False)
    if missing:
        lines = ["the configuration is valid; to train, this machine still lacks", *missing]
        console.print("\n  ".join(lines), highlight=False, markup=False)
    else:
        console.print("the configuration is valid, model and data are here", highlight=False)


def data_notes(config: TrainConfig, name: str, prompts: PromptSet) -> list[str]:
    """What may be wrong with the data set `name`, one sentence each; `train` logs these sentences too."""
    notes = [f"data set {name}: {note}" for note in prompts.notes]
    step, count = config.rollout.prompts_per_step, len(prompts.prompts)
    if name == "train" and step > count:
        notes.append(
            f"rollout.prompts_per_step is {step:,}, but data.train has {count:,} prompts: each step takes some prompts "
            "more than once; lower it, or add data"
        )
    return notes


def learner_notes(config: TrainConfig, size: ModelSize | None) -> list[str]:
    """What is worth knowing of the learner, one sentence each; `train` logs these sentences too."""
    notes = []
    algorithm = config.algorithm
    if algorithm.loss.kind == "maspo" and algorithm.max_policy_age > 0 and algorithm.old_logprobs == "recompute":
        notes.append(
            f"algorithm.max_policy_age is {algorithm.max_policy_age} and algorithm.old_logprobs is recompute: from "
            "stale batches MASPO learns better with ratios to the policy that sampled, see configs/compare_stale.yaml: "
            "set algorithm.old_logprobs to rollout"
        )
    is_rounded = config.rollout.lora == "merged" and config.model.dtype == "bfloat16"
    if config.learner.lora is not None and is_rounded:
        # Colocated engines need whole weights.
        also = "" if config.cluster.layout == "separate" else "cluster.layout to separate and "
        notes.append(
            "learner.lora is set and model.dtype is bfloat16: engines get adapters merged into the weights, where "
            "changes below 1/512 of a weight are lost; the metric learner/adapter_lost_share says how much they lose: "
            f"if it stays near 1, raise learner.lr, or set {also}rollout.lora to adapter"
        )
    if size is not None and size.idle_parameters:
        notes.append(
            f"{config.model.path} is a mixture of experts: learner and engines each choose the experts of a token, so "
            "where two experts are close the choices can differ, and mismatch/abs_max says how far logprobs then "
            "differ; no loss balances the experts"
        )
    return notes


def _set_notes(config: TrainConfig, name: str, prompts: PromptSet) -> Iterator[str]:
    yield from data_notes(config, name, prompts)
    for note in _answer_notes(config, prompts):
        yield f"data set {name}: {note}"


def _answer_notes(config: TrainConfig, prompts: PromptSet) -> Iterator[str]:
    """What is worth knowing of references, and of prompts that open a reasoning block."""
    yield from reference_problems(config.reward, ((prompt.reference, prompt.source) for prompt in prompts.prompts))
    starts = Counter(prompt.response_start for prompt in prompts.prompts if prompt.response_start)
    for start, count in starts.items():
        yield (
            f"{count} of {len(prompts.prompts)} prompts leave {start.strip()!r} open: a response is judged as if it "
            "had written this tag itself"
        )


def _require_folders(config: TrainConfig, missing: list[str]) -> None:
    """Raises ConfigError, as `train` does, for a run folder or a checkpoint to resume from that it cannot use."""
    path, resume = config.run.dir / config.run.name, config.checkpoint.resume
    try:
        there = next((place for place in (path, *path.parents) if place.exists()), Path())
        with TemporaryDirectory(dir=there):
            pass
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}): set run.dir") from None
    if resume == "never":
        RunFolder(path).require_unused()
    elif resume != "auto":
        if _is_elsewhere(resume):
            missing.append(f"checkpoint {resume}")
        else:
            require_good(Path(resume))
            RunFolder(path).require_no_other_run(Path(resume))


def _model_facts(config: TrainConfig, missing: list[str]) -> ModelFacts | None:
    path = config.model.path
    if not is_hub_name(path) and _is_elsewhere(path):
        missing.append(f"model {path}")
        return None
    try:
        return inspect_model(config)
    except HubUnreachableError as error:
        missing.append(str(error))
        return None


def _data_facts(config: TrainConfig, data_sets: list[str], model: ModelFacts | None, missing: list[str]) -> DataFacts:
    absent = [data_set for data_set in data_sets if _is_elsewhere(data_set)]
    missing += [f"data {data_set}" for data_set in absent]
    if absent:
        return None
    if model is not None:
        return load_data(config, data_sets, model)
    return sum(1 for data_set in data_sets for _ in read_rows(data_set, config.data))


def _is_elsewhere(name: str) -> bool:
    """Whether a data set or model folder is likely to exist on another machine.

    That is a hub name if no hub answers, and a path in a missing folder whose name resembles nothing here. A path that
    is missing in an existing folder, or in a folder of a similar name, is a typing error.
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


def _data(facts: Mapping[str, DataFacts]) -> Table:
    table = Table("data set", "prompts", "dropped as too long", "longest, tokens", title="data", title_justify="left")
    for name, fact in facts.items():
        if isinstance(fact, PromptSet):
            longest = max(prompt.token_ids.size for prompt in fact.prompts)
            table.add_row(name, str(len(fact.prompts)), str(fact.dropped_overlong), str(longest))
        else:
            table.add_row(name, "not here" if fact is None else f"{fact} rows", "?", "?")
    return table


def _blocks(config: TrainConfig, name: str, prompts: PromptSet) -> Iterator[str]:
    """One block of text per source: its verifier, its first prompt, and what may be wrong with it."""
    for example in prompts.examples:
        reward = config.reward.reward_for(example.source)
        yield "\n".join(
            [
                f"{name}, source {example.source}: {example.prompts:,} prompts, scored by {reward}; the first, "
                f"{example.tokens:,} tokens:",
                *_quoted(example.text),
                *(f"  note: {note}" for note in example.notes),
            ]
        )


def _quoted(text: str) -> Iterator[str]:
    """The lines of `text` behind a bar; a long text without its middle."""
    if len(text) > _SHOWN_CHARS:
        left_out = f" … ({len(text) - _SHOWN_CHARS:,} characters) … "
        text = text[: _SHOWN_CHARS // 2] + left_out + text[-_SHOWN_CHARS // 2 :]
    return (f"  | {line}" for line in text.split("\n"))


def _placement(config: TrainConfig, size: ModelSize, device: Device) -> Table:
    memory = f"{'GPU' if device == 'cuda' else 'node'} memory each, at least"
    title = f"placement on {device}, {size.parameters / 1e6:.1f} M parameters"
    table = Table("process", "count", "CPU each", "GPU each", memory, "what", title=title, title_justify="left")
    for bundle in plan_bundles(config, size, device):
        counts = str(bundle.count), f"{bundle.cpus:g}", str(bundle.gpus)
        table.add_row(bundle.role, *counts, f"{bundle.memory_bytes / 2**30:.2f} GiB", bundle.what)
    return table
