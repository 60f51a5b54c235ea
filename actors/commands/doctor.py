"""`maspo-dist doctor`: the facts of this machine, or of each node of a cluster, and what is wrong with them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from rich.console import Console

from actors.commands.node_facts import answer_within, node_facts
from actors.ray.connection import disconnect, join_or_start, no_ray_at, own_store, small_stores
from actors.ray.model_on_nodes import path_for_actors
from actors.ray.nodes import has_autoscaler, node_rooms
from actors.ray.on_node import run_on, write_token
from actors.ray.token import has_token
from actors.ray.waits import within
from maspo_dist.config import TrainConfig
from maspo_dist.errors import MaspoError, PlacementError, UserError
from maspo_dist.models.size import ModelSize
from maspo_dist.planning.doctor import Asked, Finding, NodeFacts, chosen_device, describe, findings
from maspo_dist.planning.object_store import publish_bytes
from maspo_dist.planning.placement import NodeRoom, places, plan_bundles, require_fit
from maspo_dist.planning.preflight import inspect_model

#: A node imports torch and vLLM first.
_NODE_S = 180.0
_NODES_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The facts of each node by its name, what else was found, what each node has for processes, and whether the
    cluster adds nodes.
    """

    nodes: Mapping[str, NodeFacts]
    found: tuple[Finding, ...]
    rooms: Sequence[NodeRoom]
    is_growing: bool = False


def doctor(config: TrainConfig | None, console: Console) -> bool:
    """Prints facts and findings; returns whether nothing prevents a run (of `config`)."""
    size, found = _model(config)
    asked = _asked(config)
    needed_bytes = None if config is None or size is None else publish_bytes(config, size)
    answers = _of_cluster(asked, needed_bytes) if asked.is_cluster else _of_this_machine(asked, needed_bytes)
    found += [*answers.found, *findings(answers.nodes, asked, is_growing=answers.is_growing)]
    if config is not None and size is not None and answers.nodes:
        bundles = plan_bundles(config, size, chosen_device(asked, answers.nodes.values()))
        try:
            require_fit(places(config, bundles), answers.rooms)
        except PlacementError as error:
            more = "; the cluster may add nodes, for which a run waits" if answers.is_growing else ""
            found.append(Finding(prevents=not answers.is_growing, sentence=f"{error}{more}"))
    for name, node in answers.nodes.items():
        console.print(f"node {name}", style="bold", highlight=False, markup=False)
        for title, text in describe(node):
            console.print(f"  {title:<10}{text}", highlight=False, markup=False)
    for finding in sorted(found, key=lambda finding: not finding.prevents):
        word = "error" if finding.prevents else "warning"
        console.print(f"{word}: {finding.sentence}", highlight=False, markup=False)
    if not found:
        console.print("nothing is wrong")
    return not any(finding.prevents for finding in found)


def _model(config: TrainConfig | None) -> tuple[ModelSize | None, list[Finding]]:
    if config is None:
        return None, []
    try:
        return inspect_model(config).size, []
    except UserError as error:
        return None, [Finding(prevents=True, sentence=str(error))]


def _asked(config: TrainConfig | None) -> Asked:
    is_cluster = "RAY_ADDRESS" in os.environ
    if config is None:
        return Asked(is_cluster=is_cluster)
    return Asked(
        is_cluster=is_cluster,
        device=config.model.device,
        learner_port=config.cluster.learner_port,
        model=config.model.path,
        run_folder=str(config.run.dir.absolute()),
    )


def _of_this_machine(asked: Asked, needed_bytes: int | None) -> Answers:
    # `inspect_model` has looked at the model already.
    name, question = "this machine", replace(asked, model=None)
    facts = answer_within(_NODE_S, f"{name}: its facts", lambda: node_facts(question))
    found = []
    if address := _running_cluster():
        sentence = (
            f"a Ray cluster runs here at {address}, but RAY_ADDRESS is not set, so `maspo-dist train` would start "
            f"another cluster: export RAY_ADDRESS={address} to use it"
        )
        found.append(Finding(prevents=False, sentence=sentence))
    try:
        _, slow = own_store(needed_bytes)
        found += [Finding(prevents=False, sentence=slow)] if slow else []
    except PlacementError as error:
        found.append(Finding(prevents=True, sentence=str(error)))
    room = NodeRoom(resources={"CPU": os.cpu_count() or 1, "GPU": facts.gpus})
    return Answers(nodes={name: facts}, found=tuple(found), rooms=[room])


def _running_cluster() -> str | None:
    """The address of the cluster that `ray start` has started on this machine."""
    folder = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
    try:
        address = (folder / "ray" / "ray_current_cluster").read_text().strip()
    except OSError:
        return None
    return address if address and no_ray_at(address) is None else None


def _of_cluster(asked: Asked, needed_bytes: int | None) -> Answers:
    try:
        join_or_start()
    except PlacementError as error:
        remedy = "" if has_token() else "; this user has no Ray token either: copy ~/.ray/auth_token from the head node"
        return Answers(nodes={}, found=(Finding(prevents=True, sentence=f"{error}{remedy}"),), rooms=())
    try:
        model = None if asked.model is None else path_for_actors(asked.model)
        with _token_for_all(replace(asked, model=model)) as question:
            answers = asyncio.run(_ask_nodes(question))
        small = small_stores(ray.nodes(), needed_bytes or 0)
        stores = [Finding(prevents=False, sentence=sentence) for sentence in small]
        return replace(answers, found=(*answers.found, *stores), rooms=node_rooms(), is_growing=has_autoscaler())
    finally:
        disconnect()


@contextlib.contextmanager
def _token_for_all(asked: Asked) -> Iterator[Asked]:
    """What to ask the nodes: with a token in the run folder, which each node must be able to read."""
    if asked.run_folder is None:
        yield asked
        return
    Path(asked.run_folder).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".doctor-", dir=asked.run_folder))
    try:
        yield replace(asked, token_folder=str(folder), token=write_token(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _ask_nodes(asked: Asked) -> Answers:
    """Asks every node at once, by one task each."""
    listed = await within(_NODES_S, "the cluster: its nodes", asyncio.to_thread(ray.nodes))
    nodes = [node for node in listed if node["Alive"]]
    names = _names(nodes)
    calls = [
        within(_NODE_S, f"node {name}: its facts", run_on(node["NodeID"], node_facts, asked))
        for name, node in zip(names, nodes, strict=True)
    ]
    facts, found = {}, []
    for name, node, answer in zip(names, nodes, await asyncio.gather(*calls, return_exceptions=True), strict=True):
        if isinstance(answer, NodeFacts):
            facts[name] = replace(answer, ray_gpus=int(node["Resources"].get("GPU", 0)))
        elif isinstance(answer, MaspoError):
            remedy = "see the logs in ray/session_latest/logs of Ray's temporary folder there"
            found.append(Finding(prevents=True, sentence=f"{answer}: {remedy}"))
        else:
            lines = str(answer).strip().splitlines()
            reason = lines[-1] if lines else type(answer).__name__
            remedy = "install the packages of `make setup-gpu` there, or of `make setup` without a GPU"
            found.append(
                Finding(prevents=True, sentence=f"node {name}: maspo-dist does not run there ({reason}): {remedy}")
            )
    return Answers(nodes=facts, found=tuple(found), rooms=())


def _names(nodes: list[dict[str, Any]]) -> list[str]:
    """The addresses of `nodes`, with an id where two have one address."""
    addresses: list[str] = [node["NodeManagerAddress"] for node in nodes]
    count = Counter(addresses)
    return [
        address if count[address] == 1 else f"{address} ({node['NodeID'][:8]})"
        for address, node in zip(addresses, nodes, strict=True)
    ]
