"""The learner engine: one rank of a DeepSpeed ZeRO group.

    update   old logprobs of every mini-batch but the first (no gradient)
             → for each mini-batch: micro-batches forward and backward → one optimizer step

The weights do not change before the first optimizer step, so the old logprobs of the first mini-batch are those of
its own forward with gradient. Losses are sums divided by the mini-batch's counts over all ranks, so the result does
not depend on the number of ranks or on the packing.

All methods are collective: every rank calls them in the same order, with the same number of micro-batches.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from actors.engines.deepspeed.config import deepspeed_config, import_deepspeed, reference_config
from actors.engines.deepspeed.kl_in_reward import with_kl_in_reward
from actors.engines.deepspeed.lora import WithoutAdapters, add_adapters
from actors.engines.deepspeed.micro_batch import (
    ForwardTensors,
    MicroBatchTensors,
    forward_tensors,
    micro_batch_tensors,
)
from actors.engines.deepspeed.offload import leave_device, return_to_device
from actors.engines.deepspeed.partition import partition
from actors.engines.deepspeed.policy import Policy, load_policy
from actors.engines.deepspeed.random_state import fresh_seed, random_states, seed_everything, set_random_states
from actors.engines.deepspeed.sequence_parallel import rank_groups
from actors.engines.deepspeed.shared_writes import SharedWrites
from actors.engines.deepspeed.state import (
    LAYOUT_FILE,
    TAG,
    open_learner_state,
    read_layout,
    require_same_training,
)
from actors.engines.deepspeed.state_loading import load_state, set_hyperparameters
from actors.engines.deepspeed.statistics import BatchStatistics
from actors.engines.deepspeed.weights import (
    PublishedWeight,
    adapter_weights,
    lost_share,
    policy_weights,
    whole_weights,
)
from actors.interfaces import TensorEntry
from maspo_dist.algorithm import (
    bapo_contributions,
    entropy_advantages,
    loss_by_parts,
    micro_batch_objective,
    move_bounds,
)
from maspo_dist.algorithm.logprobs import TokenLogprobs
from maspo_dist.algorithm.schedule import learning_rate
from maspo_dist.config import AlgorithmConfig, BapoLoss, TrainConfig
from maspo_dist.data.packing import pack_micro_batch, pack_sequences
from maspo_dist.errors import ConfigError, MaspoError
from maspo_dist.planning.devices import require_torch
from maspo_dist.planning.placement import Device
from maspo_dist.runs.logs import LogStream
from maspo_dist.runs.step_record import ResponseLogprobs
from maspo_dist.types import FloatArray, IntArray, MiniBatch, RolloutGroup


class DeepSpeedEngine:
    """One rank: process group, model, optimizer and, if the configuration has a KL penalty, the reference model."""

    def __init__(self, config: TrainConfig, device: Device, rank: int, world_size: int, init_address: str) -> None:
        """Joins the group at `init_address` ("tcp://host:port" of rank 0); blocks until all ranks have joined.

        Raises ConfigError before it joins if torch cannot use `device` here, ModelError if the model does not load.
        """
        require_torch(device)
        self._config = config
        self._rank = rank
        self._world_size = world_size
        self._device = torch.device("cuda", 0) if device == "cuda" else torch.device("cpu")
        self._batches = 0
        #: Micro-batches computed so far, counted once per forward without gradient and once per backward.
        self.micro_batches = 0
        if self._device.type == "cpu":
            torch.set_num_threads(config.learner.threads or max(1, (os.cpu_count() or 1) // world_size))
        seed_everything(config.run.seed)
        with redirect_stdout(LogStream()):
            self._deepspeed = import_deepspeed(self._device)
            timeout = timedelta(seconds=config.cluster.update_timeout_s)
            self._deepspeed.init_distributed(
                dist_backend="gloo" if self._device.type == "cpu" else "nccl",
                auto_mpi_discovery=False,
                timeout=timeout,
                init_method=init_address,
                rank=rank,
                world_size=world_size,
            )
            self._groups = rank_groups(config.learner.sequence_parallel, rank, world_size, timeout)
            self._engine = self._load_trained()
            self._reference = self._load_reference() if config.algorithm.kl.coefficient > 0 else None
        self._frozen_of_batch: list[ResponseLogprobs] = []
        self._files = SharedWrites()
        self._files.take_over(self._engine)
        self._policy: Policy = self._engine.module

    @property
    def policy_version(self) -> int:
        """Batches trained on since the weights of `model.path`, over all resumes."""
        return self._batches

    def update(
        self,
        shard: tuple[MiniBatch, ...],
        loss_tokens: Sequence[int],
        loss_sequences: Sequence[int],
        groups: Mapping[int, RolloutGroup],
    ) -> dict[str, float]:
        """One optimizer step per mini-batch of this rank's `shard`; the metrics are the same on every rank.

        `loss_tokens` and `loss_sequences` count each mini-batch over all ranks; `groups` holds at least the groups of
        `shard`. Raises MaspoError if a gradient is not finite; the weights are then lost.
        """
        started_s = time.perf_counter()
        rate = learning_rate(self._config.learner, self._batches, self._config.run.max_steps)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        statistics = BatchStatistics(self._config.algorithm, self._groups.data)
        minis = [
            [micro_batch_tensors(pack_micro_batch(micro, groups), self._device, self._groups) for micro in mini]
            for mini in shard
        ]
        minis = [[self._with_frozen(m, is_first=index == 0) for m in mini] for index, mini in enumerate(minis)]
        if self._has_kl_in_reward:
            minis = with_kl_in_reward(minis, self._config.algorithm, self._groups.data)
        counts = loss_tokens if self._config.algorithm.aggregate == "token-mean" else loss_sequences
        grad_norms, trained = [], []
        for index, mini in enumerate(minis):
            grad_norm, known = self._optimizer_step(index, mini, float(counts[index]), statistics)
            grad_norms.append(grad_norm)
            trained += known
        if self._config.logging.recorded_steps != 0 and self._groups.index == 0:
            self._frozen_of_batch = [entry for micro in trained for entry in micro.response_logprobs()]
        self._batches += 1
        packed_tokens = self._summed(sum(micro.packed_tokens for mini in minis for micro in mini))
        metrics = statistics.metrics(len(minis))
        if self._config.learner.lora is not None and self._config.rollout.lora == "merged":
            weights = whole_weights(policy_weights(self._policy), self._gather)
            metrics["learner/adapter_lost_share"] = lost_share(weights)
        seconds = time.perf_counter() - started_s
        return metrics | {
            "learner/grad_norm": sum(grad_norms) / len(grad_norms),
            "learner/grad_norm_max": max(grad_norms),
            "learner/lr": rate,
            "learner/tokens": packed_tokens,
            "learner/tokens_per_s": packed_tokens / seconds,
            "learner/optimizer_steps": float(len(minis)),
        }

    def frozen_logprobs(self) -> list[ResponseLogprobs]:
        """logπ_old and logπ_ref of this rank's responses in the last batch; empty unless steps are recorded.

        Ranks that share sequences leave them to the first of these ranks.
        """
        return self._frozen_of_batch

    def logprobs(self, sequences: Sequence[IntArray]) -> list[FloatArray]:
        """Log-probability of tokens 1 … L−1 of each sequence i32[L] at temperature 1, in one forward, on every rank."""
        if not sequences:
            return []
        packed = pack_sequences(sequences, [np.arange(1, sequence.size) for sequence in sequences])
        with torch.no_grad():
            logprobs, _, _ = self._engine(tokens=forward_tensors(packed, self._device, self._groups), temperature=1.0)
        ends = np.cumsum([sequence.size - 1 for sequence in sequences])
        return np.split(logprobs.float().cpu().numpy(), ends[:-1])

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """(Hugging Face name, whole tensor in the model's dtype), tied tensors once. Valid until the next update.

        Adapters are merged into the weights of their layers, or with `rollout.lora: adapter` they are all there is.
        Under ZeRO-3 all ranks must iterate together.
        """
        for weight in whole_weights(self._published(), self._gather):
            yield weight.name, weight.value()

    def weight_entries(self) -> list[TensorEntry]:
        """(name, dtype, shape) of all that `named_weights` yields, in its order. Gathers nothing, on any rank."""
        return [weight.entry for weight in self._published()]

    def save(self, folder: Path) -> None:
        """Writes weights, optimizer state, schedule and random generators into `folder`, which is made if missing.

        If the model has adapters, only theirs are written; `load` takes the other weights from `model.path`. If a rank
        cannot write, on a full disk say, every rank raises OSError, and the engine stays usable.
        """
        files = self._files
        files.run(folder, lambda: (folder / TAG).mkdir(parents=True, exist_ok=True))
        files.agree()
        with redirect_stdout(LogStream()):
            self._engine.save_checkpoint(
                str(folder),
                tag=TAG,
                client_state={"batches": self._batches},
                save_latest=False,
                exclude_frozen_parameters=self._config.learner.lora is not None,
            )
        files.write(random_states(self._device), folder / f"random_rank{self._rank}.pt")
        if self._rank == 0:
            layout = folder / LAYOUT_FILE
            files.run(layout, lambda: layout.write_text(json.dumps(self._layout()), encoding="utf-8"))
        files.agree()

    def load(self, folder: Path) -> None:
        """Reads what `save` wrote. Under the same layout, training continues as if never interrupted.

        Under another number of ranks or ZeRO stage, weights and optimizer state are equal to the last bit, and the
        random generators start from new seeds by rank and batch: the saved ones belong to other processes. Raises
        ConfigError if the checkpoint is of another dtype, of other adapters or incomplete.
        """
        layout = read_layout(folder)
        require_same_training(folder, layout, self._layout())
        with redirect_stdout(LogStream()):
            if layout != self._layout():
                state = open_learner_state(folder)
                load_state(self._engine, state)
                self._batches = state.batches
                seed_everything(fresh_seed(self._config.run.seed, self._batches, self._rank))
                return
            is_whole = self._config.learner.lora is None
            path, client_state = self._engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=is_whole)
        if path is None:
            raise ConfigError(f"checkpoint {folder} has no tag {TAG}")
        self._batches = client_state["batches"]
        set_hyperparameters(self._engine, self._config.learner)
        set_random_states(torch.load(folder / f"random_rank{self._rank}.pt", weights_only=False), self._device)

    def rest(self) -> None:
        """Leaves the device to an engine until `wake`, but for the weights; see `offload`."""
        leave_device(self._engine, self._config.learner.zero_stage, self._device)

    def wake(self) -> None:
        return_to_device(self._engine, self._config.learner.zero_stage, self._device)

    def close(self) -> None:
        """Leaves the process group; the engine cannot be used afterwards."""
        self._engine.destroy()
        # Rank 0 serves the group's store, which the other ranks need until they have left.
        dist.barrier()
        # DeepSpeed also forgets its own groups, which the next engine of this process must not find.
        self._deepspeed.comm.destroy_process_group()

    # Parts of `update`.

    def _with_frozen(self, micro: MicroBatchTensors, *, is_first: bool) -> MicroBatchTensors:
        """Adds logπ_ref, if used, and logπ_old, unless the first optimizer step will compute it."""
        old = ref = None
        if self._config.algorithm.old_logprobs == "rollout":
            old = micro.sampled.behavior_logprobs
        elif not is_first or self._has_kl_in_reward:
            old = self._frozen(self._engine, micro.forward).logprobs
        if self._reference is not None:
            ref = self._frozen(self._reference, micro.forward).logprobs
        return replace(micro, sampled=replace(micro.sampled, old_logprobs=old, ref_logprobs=ref))

    @property
    def _has_kl_in_reward(self) -> bool:
        return self._config.algorithm.kl.is_in_reward

    def _frozen(self, model: Any, tensors: ForwardTensors) -> TokenLogprobs:
        with torch.no_grad():
            logprobs, entropy, _ = model(tokens=tensors, temperature=self._config.rollout.temperature)
        self.micro_batches += 1
        return TokenLogprobs(logprobs, entropy)

    def _optimizer_step(
        self, index: int, mini: list[MicroBatchTensors], denominator: float, statistics: BatchStatistics
    ) -> tuple[float, list[MicroBatchTensors]]:
        """Accumulates the mini-batch and steps: the gradient norm before clipping, the mini-batch with its logπ_old."""
        algorithm = self._with_moved_bounds(mini)
        known = []
        for number, micro in enumerate(mini):
            self._engine.set_gradient_accumulation_boundary(number == len(mini) - 1)
            logprobs, entropy, fused_loss = self._engine(
                tokens=micro.forward,
                temperature=self._config.rollout.temperature,
                share=loss_by_parts(algorithm, micro.sampled, denominator),
            )
            if micro.sampled.old_logprobs is None:
                micro = replace(micro, sampled=replace(micro.sampled, old_logprobs=logprobs.detach()))
            current = TokenLogprobs(logprobs, entropy)
            objective = micro_batch_objective(algorithm, micro.sampled, current, denominator)
            # DeepSpeed averages over ranks; the loss is already divided by counts over all of them.
            self._engine.backward((objective.loss if fused_loss is None else fused_loss) * self._world_size)
            statistics.add(micro, objective, current)
            known.append(micro)
            self.micro_batches += 1
        grad_norm = self._local_grad_norm()
        self._engine.step()
        if grad_norm is None:
            grad_norm = float(self._engine.get_global_grad_norm())
        if not math.isfinite(grad_norm):
            raise MaspoError(
                f"gradient norm {grad_norm} in mini-batch {index} of batch {self._batches}: the weights are lost; "
                "resume from the last checkpoint"
            )
        return grad_norm, known

    def _with_moved_bounds(self, mini: list[MicroBatchTensors]) -> AlgorithmConfig:
        """The algorithm section; for BAPO with the clip bounds of this optimizer step."""
        algorithm = self._config.algorithm
        if not isinstance(algorithm.loss, BapoLoss):
            return algorithm
        total: Tensor | None = None
        for micro in mini:
            current, sampled = self._frozen(self._engine, micro.forward), micro.sampled
            old = current.logprobs if sampled.old_logprobs is None else sampled.old_logprobs
            advantages = sampled.advantages
            if algorithm.advantage.entropy is not None:
                advantages = entropy_advantages(algorithm.advantage.entropy, advantages, current.entropy)
            part = bapo_contributions(algorithm.loss, current.logprobs, old, advantages)
            total = part if total is None else total + part
        assert total is not None
        dist.all_reduce(total, group=self._groups.data)
        return algorithm.model_copy(update={"loss": move_bounds(algorithm.loss, total)})

    def _local_grad_norm(self) -> float | None:
        """The norm at ZeRO 0 in float32, where DeepSpeed clips without reporting it; None elsewhere."""
        if self._config.learner.zero_stage > 0 or self._config.model.dtype != "float32":
            return None
        gradients = [p.grad for p in self._policy.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients).item()

    # Construction and plumbing.

    def _load_trained(self) -> Any:
        learner = self._config.learner
        policy = load_policy(
            self._config.model, gradient_checkpointing=learner.gradient_checkpointing, groups=self._groups
        ).train()
        trained: Iterable[torch.nn.Parameter] = policy.parameters()
        if learner.lora is not None:
            trained = add_adapters(policy, learner.lora, self._config.model.path, self._config.run.seed)
        settings = deepspeed_config(self._config)
        if learner.zero_stage == 3:
            partition(policy, settings, self._device)
        optimizer = torch.optim.AdamW(
            trained,
            lr=learner.lr,
            betas=learner.betas,
            eps=learner.eps,
            weight_decay=learner.weight_decay,
            fused=True,
        )
        engine, *_ = self._deepspeed.initialize(model=policy, optimizer=optimizer, config=settings)
        return engine

    def _load_reference(self) -> Any:
        if self._config.learner.lora is not None:
            return WithoutAdapters(self._engine, self._engine.module)
        reference = load_policy(self._config.model, groups=self._groups).requires_grad_(False).eval()
        if self._config.learner.zero_stage < 3:
            return reference.to(self._device)
        settings = reference_config(self._config)
        partition(reference, settings, self._device)
        partitioned, *_ = self._deepspeed.initialize(model=reference, config=settings)
        return partitioned

    def _published(self) -> Iterator[PublishedWeight]:
        return (policy_weights if self._config.rollout.lora == "merged" else adapter_weights)(self._policy)

    def _gather(self, parameters: list[torch.nn.Parameter]) -> AbstractContextManager[object]:
        whole: AbstractContextManager[object] = nullcontext()
        return whole if self._config.learner.zero_stage < 3 else self._deepspeed.zero.GatheredParameters(parameters)

    def _summed(self, value: float) -> float:
        total = torch.tensor(value, dtype=torch.float64, device=self._device)
        dist.all_reduce(total, group=self._groups.data)
        return total.item()

    def _layout(self) -> dict[str, Any]:
        lora = self._config.learner.lora
        return {
            "ranks": self._world_size,
            "dtype": self._config.model.dtype,
            "zero_optimization": deepspeed_config(self._config)["zero_optimization"],
        } | ({} if lora is None else {"lora": lora.model_dump(mode="json")})
