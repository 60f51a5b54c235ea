"""The processes of a run: their number, CPUs and GPUs, and an estimate of their memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from maspo_dist.config import ClusterConfig, EvaluationConfig, ModelConfig, TrainConfig, VerifierConfig
from maspo_dist.config.learner import LearnerConfig
from maspo_dist.config.rollout import EnginesConfig
from maspo_dist.errors import PlacementError
from maspo_dist.models.size import ModelSize, adapter_parameters

Device = Literal["cpu", "cuda"]
Role = Literal["learner", "rollout", "verifier"]

#: Cores that each process reserves on a machine without GPUs, where the processes take turns.
CPU_SHARE = 0.25
#: CHUNK_ELEMENTS of `maspo_dist.algorithm.logprobs`, whose import takes seconds.
HEAD_LOGITS: Mapping[Device, int] = {"cpu": 1 << 26, "cuda": 1 << 28}

#: Keys and values of an engine on the CPU; vLLM takes them whole when it starts.
CPU_CACHE_GIB = 1
#: What Python and its libraries hold in main memory, measured after the imports. An engine is two processes: the
#: rollout worker, and vLLM's.
_LEARNER_LIBRARIES_BYTES, _ENGINE_LIBRARIES_BYTES = 280 << 20, 2 * 420 << 20


#: Share of a GPU that vLLM takes where a learner rank keeps its weights beside it.
SHARED_ENGINE_SHARE = 0.6


def pick_device(wanted: Device | Literal["auto"], *, has_gpu: bool) -> Device:
    """The configured device; `auto` means GPUs where there are any."""
    if wanted == "auto":
        return "cuda" if has_gpu else "cpu"
    return wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """`count` processes of one role, each with these resources on one node that has `labels`."""

    role: Role
    count: int
    cpus: float
    gpus: int
    memory_bytes: int
    what: str
    labels: Mapping[str, str] = field(default_factory=dict)


def plan_bundles(config: TrainConfig, size: ModelSize, device: Device) -> tuple[Bundle, ...]:
    """The processes of a run, learners first, as they are placed."""
    on_gpu = device == "cuda"
    rollout, learner = config.rollout, config.learner
    bundles = (
        Bundle(
            role="learner",
            count=learner.ranks,
            cpus=1.0 if on_gpu else CPU_SHARE,
            gpus=1 if on_gpu else 0,
            memory_bytes=learner_memory(config, size, device).total_bytes,
            what=f"DeepSpeed {learner_name(learner)}",
        ),
        _engine_bundle(rollout, rollout.first_workers, engine_memory(config, size, device).total_bytes, device),
        _verifier_bundle(config.reward, device),
    )
    if config.cluster.layout == "colocated":
        learners, engines, verifier = bundles
        bundles = learners, replace(engines, gpus=0, what=f"{engines.what}, on the devices of its ranks"), verifier
    return _labelled(bundles, config.cluster)


def shared_bundle(learner: Bundle, engine: Bundle, ranks: int) -> Bundle:
    """The places where an engine and `ranks` learner ranks take turns on the same devices, one per engine."""
    return replace(
        learner,
        count=engine.count,
        cpus=ranks * learner.cpus + engine.cpus,
        gpus=ranks * learner.gpus,
        memory_bytes=ranks * learner.memory_bytes + engine.memory_bytes,
    )


def plan_evaluation(config: EvaluationConfig, size: ModelSize, device: Device, gpus: int) -> tuple[Bundle, ...]:
    """The processes of a standalone evaluation, engines first; `gpus` is how many the cluster has."""
    rollout = config.rollout
    workers = rollout.workers or (max(1, gpus // rollout.tensor_parallel) if device == "cuda" else 1)
    bundles = (
        _engine_bundle(rollout, workers, weight_width(config.model) * size.parameters, device),
        _verifier_bundle(config.reward, device),
    )
    return _labelled(bundles, config.cluster)


def learner_name(learner: LearnerConfig) -> str:
    """What a process of the learner is, for tables."""
    shared = f", {learner.sequence_parallel} share a sequence" if learner.sequence_parallel > 1 else ""
    return f"ZeRO-{learner.zero_stage} rank{shared}"


def _labelled(bundles: tuple[Bundle, ...], cluster: ClusterConfig) -> tuple[Bundle, ...]:
    return tuple(replace(bundle, labels=cluster.labels.get(bundle.role, {})) for bundle in bundles)


def _engine_bundle(rollout: EnginesConfig, count: int, memory_bytes: int, device: Device) -> Bundle:
    on_gpu = device == "cuda"
    return Bundle(
        role="rollout",
        count=count,
        cpus=1.0 if on_gpu else CPU_SHARE,
        gpus=rollout.tensor_parallel if on_gpu else 0,
        memory_bytes=memory_bytes // (rollout.tensor_parallel if on_gpu else 1),
        what=f"{rollout.backend} engine, tensor parallel {rollout.tensor_parallel}",
    )


def _verifier_bundle(config: VerifierConfig, device: Device) -> Bundle:
    return Bundle(
        role="verifier",
        count=1,
        cpus=float(config.workers) if device == "cuda" else CPU_SHARE,
        gpus=0,
        memory_bytes=config.workers * config.memory_mb * 1024**2,
        what=f"pool of {config.workers} verifier processes",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerMemory:
    """An estimate of what one rank holds on its device, in bytes; weights include those of a reference model.

    `host_bytes` is what a rank on a GPU keeps in main memory instead.
    """

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    head_bytes: int
    libraries_bytes: int
    host_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """On its device."""
        of_model = self.weights_bytes + self.gradients_bytes + self.optimizer_bytes
        return of_model + self.activations_bytes + self.head_bytes + self.libraries_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMemory:
    """What one engine needs on its device at least, over all its GPUs, in bytes. On a GPU, vLLM takes a share of it."""

    weights_bytes: int
    keys_and_values_bytes: int
    libraries_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.keys_and_values_bytes + self.libraries_bytes


def learner_memory(config: TrainConfig, size: ModelSize, device: Device) -> LearnerMemory:
    """Model state of one rank plus what one micro-batch needs.

    State per parameter: weight in the dtype of the model, float32 gradient, two float32 moments, and in bfloat16 a
    float32 master copy; the weight again for a reference model. ZeRO 1 shards master and moments over the ranks, 2 the
    gradient too, 3 the weights too. With adapters they alone have gradients, moments and masters, and the model
    without them is the reference. A response longer than a micro-batch is a micro-batch of its own. Ranks that share
    sequences divide its tokens.
    """
    learner, lora = config.learner, config.learner.lora
    tokens = math.ceil(max(learner.micro_batch_tokens, longest_sequence(config)) / learner.sequence_parallel)
    ranks, stage = learner.ranks, learner.zero_stage
    width = weight_width(config.model)
    copies = 2 if config.algorithm.kl.coefficient > 0 else 1
    held, trained = copies * size.parameters, size.parameters
    if lora is not None:
        trained = adapter_parameters(lora, size, config.model.path)
        held = size.parameters + trained
    optimizer = (8 + (4 if width == 2 else 0)) * trained / (ranks if stage >= 1 else 1)
    gradients = 4 * trained / (ranks if stage >= 2 else 1)
    weights = width * held / (ranks if stage >= 3 else 1)
    keeps_weights = device == "cpu" or learner.offload_parameters == "none"
    keeps_optimizer = device == "cpu" or learner.offload_optimizer == "none"
    # Activations that backward needs, in widths of a layer; with checkpointing only the input of each layer is kept.
    layer = 12 * size.hidden + 4 * size.intermediate
    kept = layer + size.layers * size.hidden if learner.gradient_checkpointing else size.layers * layer
    # The head: logits of a chunk with a working copy on a GPU, and the gradient of its weight unless that is frozen.
    logits = min(HEAD_LOGITS[device], tokens * size.vocabulary) * (10 if device == "cuda" else 6)
    return LearnerMemory(
        weights_bytes=int(weights) if keeps_weights else 0,
        gradients_bytes=int(gradients),
        optimizer_bytes=int(optimizer) if keeps_optimizer else 0,
        activations_bytes=tokens * kept * width,
        head_bytes=logits + (4 * size.vocabulary * size.hidden if lora is None else 0),
        libraries_bytes=0 if device == "cuda" else _LEARNER_LIBRARIES_BYTES,
        host_bytes=(0 if keeps_weights else int(weights)) + (0 if keeps_optimizer else int(optimizer)),
    )


def longest_sequence(config: TrainConfig) -> int:
    """Tokens of the longest prompt and response that a run may have."""
    return config.data.max_prompt_tokens + config.rollout.max_response_tokens


def engine_memory(config: TrainConfig, size: ModelSize, device: Device) -> EngineMemory:
    """Weights of one engine, and the keys and values of one sequence at full length, which it must hold at least."""
    width = weight_width(config.model)
    wanted = width * longest_sequence(config) * size.key_value_elements
    return EngineMemory(
        weights_bytes=width * size.parameters,
        keys_and_values_bytes=wanted if device == "cuda" else CPU_CACHE_GIB << 30,
        libraries_bytes=0 if device == "cuda" else _ENGINE_LIBRARIES_BYTES,
    )


def weight_width(model: ModelConfig) -> int:
    """Bytes per weight."""
    return 2 if model.dtype == "bfloat16" else 4


def places(config: TrainConfig, bundles: tuple[Bundle, ...]) -> tuple[Bundle, ...]:
    """What `plan_bundles` planned, where an engine and the learner ranks that share its devices are one place."""
    if config.cluster.layout != "colocated":
        return bundles
    learners, engines, verifier = bundles
    return shared_bundle(learners, engines, config.rollout.tensor_parallel), verifier


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRoom:
    """What a node has for processes: {"CPU": 8, "GPU": 1, …}, as Ray counts, and its labels."""

    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)


def require_fit(bundles: tuple[Bundle, ...], nodes: Sequence[NodeRoom]) -> None:
    """Raises PlacementError naming what is missing on `nodes`: all together, those with the labels of a role, or the
    largest of them.
    """
    _require_sum(bundles, nodes, "the cluster has")
    for labels in {tuple(sorted(bundle.labels.items())): bundle.labels for bundle in bundles if bundle.labels}.values():
        fitting = [node for node in nodes if labels.items() <= node.labels.items()]
        same = tuple(bundle for bundle in bundles if bundle.labels == labels)
        if not fitting:
            roles = " and ".join(bundle.role for bundle in same)
            raise PlacementError(
                f"no node has the labels {dict(labels)} of cluster.labels, which {roles} needs: correct them, or start "
                "Ray on such nodes with --labels"
            )
        _require_sum(same, fitting, f"nodes with the labels {dict(labels)} have")
    for bundle in bundles:
        _require_places(bundle, [node for node in nodes if bundle.labels.items() <= node.labels.items()])


def _require_sum(bundles: tuple[Bundle, ...], nodes: Sequence[NodeRoom], owners: str) -> None:
    available: Counter[str] = Counter()
    for node in nodes:
        available.update(node.resources)
    needs = {
        "CPU": sum(bundle.count * bundle.cpus for bundle in bundles),
        "GPU": sum(bundle.count * bundle.gpus for bundle in bundles),
    }
    short = {name: need for name, need in needs.items() if need > available[name]}
    if not short:
        return
    missing = " and ".join(f"{need:g} {name} where {owners} {available[name]:g}" for name, need in short.items())
    demand = ", ".join(
        f"{bundle.count} × {bundle.role} ({bundle.cpus:g} CPU{f', {bundle.gpus} GPU' if bundle.gpus else ''})"
        for bundle in bundles
    )
    raise PlacementError(f"the run needs {missing}: {demand}; lower learner.ranks or rollout.workers, or add nodes")


def _require_places(bundle: Bundle, nodes: Sequence[NodeRoom]) -> None:
    """Raises PlacementError unless `nodes` hold all processes of `bundle`, each on one node."""
    labels = f" with the labels {dict(bundle.labels)}" if bundle.labels else ""
    for name, need in (("GPU", bundle.gpus), ("CPU", bundle.cpus)):
        rooms = [node.resources.get(name, 0.0) for node in nodes]
        if need > max(rooms, default=0.0):
            fix = "reward.workers" if bundle.role == "verifier" else "rollout.tensor_parallel"
            raise PlacementError(
                f"a {bundle.role} needs {need:g} {name} on one node, and the largest node{labels} has "
                f"{max(rooms, default=0.0):g}: lower {fix}, or add a larger node"
            )
        places = sum(int(room // need) for room in rooms) if need else bundle.count
        if places < bundle.count:
            count = "learner.ranks" if bundle.role == "learner" else "rollout.workers"
            raise PlacementError(
                f"the run needs {bundle.count} × {bundle.role}, each with {need:g} {name} on one node, and the nodes"
                f"{labels} hold {places}: lower {count} or rollout.tensor_parallel, or add nodes"
            )
