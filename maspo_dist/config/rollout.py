"""The sections `rollout` and `sync`: generation, and how new weights reach the engines."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from maspo_dist.config.extension import one_of
from maspo_dist.config.model import refuse_keys
from maspo_dist.config.section import Execution, Meaning, Section

#: vLLM arguments that other keys set, in training and in evaluation.
_ENGINE_KEYS = {
    "model": "model.path",
    "tokenizer": "model.path",
    "dtype": "model.dtype",
    "tensor_parallel_size": "rollout.tensor_parallel",
    "pipeline_parallel_size": "rollout.tensor_parallel: an engine is split by that alone",
    "data_parallel_size": "rollout.workers: each worker has one engine",
    "distributed_executor_backend": "no other key: an engine's processes are on the node of its worker",
    "enable_sleep_mode": "cluster.layout",
    "logprobs_mode": "no other key: logprobs must be of the sampled distribution",
    "trust_remote_code": "model.trust_remote_code",
    "runner": "no other key: engines generate",
    "weight_transfer_config": "no other key: engines get the weights of the learner",
    "worker_extension_cls": "no other key: engines prove their weights",
    "enable_lora": "rollout.lora",
    "max_loras": "rollout.lora",
    "max_lora_rank": "rollout.lora",
    "lora_target_modules": "learner.lora.targets",
}
#: Ranks for which vLLM can hold an adapter.
SLOT_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


class EnginesConfig(Section):
    """Engines, in training and in evaluation."""

    #: The key that sets the engine's seed.
    seed_key: ClassVar[str] = "run.seed"
    #: The engine of each worker: vllm, or a class of your own as python:module:Name.
    backend: Execution[Annotated[str, AfterValidator(one_of("vllm"))]] = "vllm"
    #: GPUs per worker.
    tensor_parallel: Execution[int] = Field(1, ge=1)
    #: Arguments passed to vLLM's engine unchanged.
    engine: Execution[dict[str, Any]] = Field(default_factory=dict)

    @field_validator("engine")
    @classmethod
    def _engine_keys_not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        refuse_keys("engine", value, {**_ENGINE_KEYS, "seed": cls.seed_key})
        # Memory and time are planned with these two.
        sequences = value.get("max_num_seqs", 1)
        if type(sequences) is not int or sequences < 1:
            raise ValueError(f"engine.max_num_seqs must be a whole number of at least 1, got {sequences!r}")
        share = value.get("gpu_memory_utilization", 1)
        if type(share) not in (int, float) or not 0 < share <= 1:
            raise ValueError(f"engine.gpu_memory_utilization must be above 0 and at most 1, got {share!r}")
        return value


class WorkerRange(Section):
    """As many rollout workers as the cluster has room for, within bounds. It is asked for room, so it may add nodes."""

    #: The run starts with this many workers.
    min: int = Field(ge=1)
    #: The run never has more workers.
    max: int = Field(ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> WorkerRange:
        if self.max < self.min:
            raise ValueError(f"max must be at least min ({self.min}), got {self.max}")
        return self


class StragglerConfig(Section):
    """What happens to a group that takes too long."""

    #: Seconds from dispatch after which a group is a straggler; null: never.
    deadline_s: float | None = Field(None, gt=0)
    #: truncate ends the open responses of the group, requeue samples the group again (and drops it after
    #: rollout.max_attempts), drop leaves it out. With requeue and drop, long responses are trained on less often than
    #: they are sampled.
    action: Literal["truncate", "requeue", "drop"] = "truncate"


class RolloutConfig(EnginesConfig):
    """Generation."""

    #: Workers, each with its engine: a number, or {min, max} to follow what the cluster offers during the run.
    workers: Execution[int | WorkerRange] = 1
    #: CPU threads per engine; null divides the cores among the first workers. A small model is fastest with 1.
    threads: Execution[int | None] = Field(None, ge=1)
    #: Responses per prompt; advantages are relative to their mean.
    group_size: Meaning[int] = Field(8, ge=2)
    #: Groups per batch.
    prompts_per_step: Meaning[int] = Field(ge=1)
    #: Longest response in tokens; longer responses are truncated there.
    max_response_tokens: Meaning[int] = Field(ge=1)
    #: Sampling temperature; the learner divides its logits by it too.
    temperature: Meaning[float] = Field(1.0, gt=0)
    #: Share of probability to sample from. It changes the sampling distribution but not the learner's, which makes
    #: ratios wrong; any value but 1 needs allow_biased_sampling.
    top_p: Meaning[float] = Field(1.0, gt=0, le=1)
    #: Number of tokens to sample from; 0 takes all. Any other value needs allow_biased_sampling, as top_p does.
    top_k: Meaning[int] = Field(0, ge=0)
    #: Penalty on repeated tokens; any value but 1 needs allow_biased_sampling, as top_p does.
    repetition_penalty: Meaning[float] = Field(1.0, gt=0)
    #: Allow top_p, top_k and repetition_penalty although they make ratios wrong.
    allow_biased_sampling: Execution[bool] = False
    #: Update weights while requests are in flight, so that a response can span versions; false waits for their end.
    in_flight_updates: Meaning[bool] = True
    #: Keys and values of responses in flight at an update. recompute: prefill them again with the new weights. keep: go
    #: on with those of the old weights, which saves the prefill and takes logprobs further from the learner's.
    in_flight_kv: Meaning[Literal["recompute", "keep"]] = "recompute"
    #: How engines get the adapters of learner.lora. merged: as part of all weights, rounded to the model's dtype, so
    #: that in bfloat16 small changes are lost. adapter: exact, and only adapters travel; generation takes longer, by
    #: their arithmetic.
    lora: Meaning[Literal["merged", "adapter"]] = "merged"
    #: The order in which groups enter batches. admission: the order in which they were started. completion: the order
    #: in which they finish, so that batches fill earlier and slow groups train later, within max_policy_age.
    batch_order: Meaning[Literal["admission", "completion"]] = "admission"
    #: Most groups in flight or waiting for a batch, as a multiple of prompts_per_step; null: as many as max_policy_age
    #: allows.
    over_sampling: Execution[float | None] = Field(None, ge=1)
    #: What happens to a group that takes too long.
    straggler: Meaning[StragglerConfig] = StragglerConfig()
    #: Workers that may die while they run a prompt; then the prompt is set aside. Its last attempt runs alone on a
    #: worker.
    max_attempts: Execution[int] = Field(3, ge=1)

    @property
    def first_workers(self) -> int:
        """Workers that a run starts with."""
        return self.workers.min if isinstance(self.workers, WorkerRange) else self.workers

    @field_validator("workers", mode="before")
    @classmethod
    def _number_or_range(cls, value: object) -> object:
        if isinstance(value, dict):
            return WorkerRange.model_validate(value)
        if isinstance(value, WorkerRange) or (type(value) is int and value >= 1):
            return value
        raise ValueError(f"workers must be a number of at least 1 or {{min: …, max: …}}, got {value!r}")

    @model_validator(mode="after")
    def _sampling_is_unbiased(self) -> RolloutConfig:
        if self.allow_biased_sampling:
            return self
        for key, neutral in (("top_p", 1.0), ("top_k", 0), ("repetition_penalty", 1.0)):
            value = getattr(self, key)
            if value != neutral:
                raise ValueError(
                    f"{key} is {value:g}, so that logprobs of the rollout engine and of the learner are of different "
                    f"distributions: set {key} to {neutral:g}, or allow_biased_sampling: true"
                )
        return self


class SyncConfig(Section):
    """How the learner's weights reach the engines, and the proof that they arrived."""

    #: How weights travel. object_store: Ray's, then shared memory of each node. collective: learner rank 0 broadcasts
    #: them to the processes of all engines at once, by NCCL or on CPUs by gloo; engines that come later get a copy
    #: through the object store. ipc: with cluster.layout colocated, each engine reads them in the memory of the
    #: learner ranks on its own devices; each rank must hold whole weights, so it needs ZeRO-2 and no adapters. auto on
    #: GPUs and for vLLM: collective with layout separate; with colocated ipc, or object_store where ipc is not
    #: possible. auto otherwise: object_store. Or a class of your own as python:module:Name.
    transport: Annotated[str, AfterValidator(one_of("auto", "object_store", "collective", "ipc"))] = "auto"
    #: Largest accepted mean |logprob(engine) − logprob(learner)| after a publish; null: twice the mean at the start,
    #: when both hold the weights of model.path, but at least 1e-4 in float32 and 0.02 in bfloat16.
    max_mean_logprob_gap: float | None = Field(None, gt=0)
    #: Tokens whose logprobs are compared after each publish, of responses of the last batch or else of prompts; null:
    #: 4096 on a GPU; on a CPU, where a forward of more would take longer than the publish, 256 in bfloat16 and 128 in
    #: float32.
    probe_tokens: int | None = Field(None, ge=16)
