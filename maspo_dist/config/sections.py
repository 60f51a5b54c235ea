"""Every other section of the configuration, and the tree they form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from maspo_dist.config.algorithm import AlgorithmConfig
from maspo_dist.config.cluster import ClusterConfig
from maspo_dist.config.section import Section
from maspo_dist.config.verifier import VerifierConfig


def _names_fit_metrics(value: dict[str, str]) -> dict[str, str]:
    for name in value:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
            raise ValueError(f"eval set name {name!r} may hold letters, digits, '.', '_' and '-' only")
    return value


#: Data sets by a name that can stand in a metric's.
HeldOutSets = Annotated[dict[str, str], AfterValidator(_names_fit_metrics)]


#: vLLM arguments that other settings own, wherever an engine is configured.
MODEL_ENGINE_KEYS = {
    "model": "model.path",
    "tokenizer": "model.path",
    "dtype": "model.dtype",
    "tensor_parallel_size": "rollout.tensor_parallel",
    "logprobs_mode": "no other key: logprobs must be of the sampled distribution",
    "trust_remote_code": "model.trust_remote_code",
}


def refuse_keys(section: str, value: dict[str, Any], owners: Mapping[str, str]) -> dict[str, Any]:
    """`value`, unless it holds a key that another setting owns (ValueError naming both)."""
    for key in value:
        if key in owners:
            raise ValueError(f"{section}.{key} is set by {owners[key]}; remove it here")
    return value


class RunConfig(Section):
    """The run and where it leaves its folder."""

    #: Name of the run folder under `dir`.
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    #: Parent of all run folders.
    dir: Path = Path("runs")
    #: Seeds data order, sampling and everything else that draws.
    seed: int = Field(0, ge=0, lt=2**31)
    #: Training stops after this many batches.
    max_steps: int = Field(ge=0)


class ModelConfig(Section):
    """The policy to train."""

    #: Folder (or hub name, where one can be reached) with config, weights and tokenizer.
    path: str
    #: Of weights and activations; optimizer state and the loss are float32 either way.
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    #: Where the learner and the engines compute; auto takes the GPU when there is one.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    #: Attention of the learner; auto lets transformers choose.
    attention: Literal["auto", "sdpa", "flash_attention_2", "eager"] = "auto"
    #: Run model code that comes with the weights.
    trust_remote_code: bool = False


class PromptConfig(Section):
    """How rows become prompts."""

    problem_field: str = "problem"
    answer_field: str = "answer"
    #: Field that picks the verifier; rows without it carry the file's name.
    source_field: str = "source"
    #: `chat` is the tokenizer's own template, `none` the problem as it stands, else text with {problem}.
    template: str = "chat"
    #: System message of the chat template.
    system_prompt: str | None = None
    #: Put after every problem, before the template; say here how answers are to be written.
    problem_suffix: str = ""
    #: Longest prompt, after the template.
    max_prompt_tokens: int = Field(1024, ge=1)
    #: What to do with longer ones: refuse the data set, or drop them with a count.
    overlong_prompts: Literal["refuse", "drop"] = "refuse"

    @field_validator("template")
    @classmethod
    def _template_has_problem(cls, value: str) -> str:
        if value not in ("chat", "none") and "{problem}" not in value:
            raise ValueError(f"template must be chat, none, or text that holds {{problem}}, got {value!r}")
        return value

    @model_validator(mode="after")
    def _system_prompt_has_its_template(self) -> Self:
        if self.system_prompt is not None and self.template != "chat":
            raise ValueError(
                f"system_prompt belongs to template chat, but template is {self.template!r}: "
                "write it into the template, or remove it"
            )
        return self


class DataConfig(PromptConfig):
    """Prompts with verifiable answers."""

    #: JSONL or Parquet files, or `hf:NAME[:SPLIT]` for a Hugging Face data set.
    train: list[str] = Field(min_length=1)
    #: Held-out sets by name.
    eval: HeldOutSets = Field(default_factory=dict)


class WorkerRange(Section):
    """As many rollout workers as the cluster has room for, within bounds."""

    min: int = Field(ge=1)
    max: int = Field(ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> WorkerRange:
        if self.max < self.min:
            raise ValueError(f"max must be at least min ({self.min}), got {self.max}")
        return self


class StragglerConfig(Section):
    """What happens to a group that takes too long."""

    #: Seconds from dispatch after which a group counts as a straggler; null: never.
    deadline_s: float | None = Field(None, gt=0)
    #: truncate ends its open responses there, requeue samples the group again (and drops it after
    #: rollout.max_attempts), drop leaves it out. The latter two train on fewer long responses than were sampled.
    action: Literal["truncate", "requeue", "drop"] = "truncate"


class RolloutConfig(Section):
    """Generation."""

    #: vLLM engines: a number, or {min, max} to follow what the cluster offers while the job runs.
    workers: int | WorkerRange = 1
    #: GPUs a worker.
    tensor_parallel: int = Field(1, ge=1)
    #: CPU threads an engine; null shares the cores out among the first workers. A small model is faster with one.
    threads: int | None = Field(None, ge=1)
    #: Responses to each prompt; advantages are relative to their mean.
    group_size: int = Field(8, ge=2)
    #: Groups a batch.
    prompts_per_step: int = Field(ge=1)
    max_response_tokens: int = Field(ge=1)
    #: Sampling temperature; the learner divides its logits alike.
    temperature: float = Field(1.0, gt=0)
    #: Cut or skew the distribution that is sampled; the learner does not, so that ratios would be wrong.
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    repetition_penalty: float = Field(1.0, gt=0)
    #: Allow top_p, top_k and repetition_penalty to be set all the same.
    allow_biased_sampling: bool = False
    #: Weights change under running requests, which then span versions; false waits for requests to end first.
    in_flight_updates: bool = True
    #: Which finished groups make a batch: those admitted first, or those that finished first. The latter fills
    #: a batch early and trains stragglers later, still within max_policy_age.
    batch_order: Literal["admission", "completion"] = "admission"
    #: Groups in flight and finished, as a multiple of prompts_per_step; null: as many as max_policy_age lets train.
    over_sampling: float | None = Field(None, ge=1)
    straggler: StragglerConfig = StragglerConfig()
    #: Workers that may die with a prompt aboard before it is set aside; on its last attempt it is alone.
    max_attempts: int = Field(3, ge=1)
    #: Arguments passed to vLLM's engine as they are.
    engine: dict[str, Any] = Field(default_factory=dict)

    @property
    def first_workers(self) -> int:
        """Workers that a run starts with."""
        return self.workers.min if isinstance(self.workers, WorkerRange) else self.workers

    @field_validator("workers", mode="before")
    @classmethod
    def _number_or_range(cls, value: object) -> object:
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if isinstance(value, dict | WorkerRange) or (is_number and int(str(value)) >= 1):
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

    @field_validator("engine")
    @classmethod
    def _engine_keys_not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        return refuse_keys("engine", value, {**MODEL_ENGINE_KEYS, "seed": "run.seed"})


class LearnerConfig(Section):
    """The DeepSpeed learner group."""

    #: Data-parallel processes.
    ranks: int = Field(1, ge=1)
    zero_stage: Literal[0, 1, 2, 3] = 2
    #: Tokens (prompt and response) packed into one forward, at most; a longer response goes alone.
    micro_batch_tokens: int = Field(8192, ge=1)
    lr: float = Field(1e-6, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    #: Shape of the learning rate after warm-up, over run.max_steps.
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    #: Batches over which the learning rate rises from 0.
    warmup_steps: int = Field(0, ge=0)
    #: Gradients are scaled down to this global norm.
    max_grad_norm: float = Field(1.0, gt=0)
    gradient_checkpointing: bool = False
    #: ZeRO offload, passed through to DeepSpeed.
    offload_optimizer: Literal["none", "cpu"] = "none"
    offload_parameters: Literal["none", "cpu"] = "none"
    #: CPU threads a rank; null shares the cores out evenly.
    threads: int | None = Field(None, ge=1)
    #: Anything else for DeepSpeed's config, merged; keys that other settings own are refused.
    deepspeed: dict[str, Any] = Field(default_factory=dict)

    @field_validator("deepspeed")
    @classmethod
    def _deepspeed_keys_not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        ours = {
            "train_batch_size": "rollout.prompts_per_step",
            "train_micro_batch_size_per_gpu": "learner.micro_batch_tokens",
            "gradient_accumulation_steps": "learner.micro_batch_tokens",
            "gradient_clipping": "learner.max_grad_norm",
            "optimizer": "learner.lr, betas, eps and weight_decay",
            "scheduler": "learner.schedule",
            "bf16": "model.dtype",
            "fp16": "model.dtype",
        }
        for key in value:
            if key in ours:
                raise ValueError(f"deepspeed.{key} is set by {ours[key]}; remove it here")
        zero = value.get("zero_optimization", {})
        if not isinstance(zero, dict):
            raise ValueError(f"deepspeed.zero_optimization must be a section of keys, got {zero!r}")
        zero_ours = {
            "stage": "learner.zero_stage",
            "offload_optimizer": "learner.offload_optimizer",
            "offload_param": "learner.offload_parameters",
        }
        for key in zero:
            if key in zero_ours:
                raise ValueError(f"deepspeed.zero_optimization.{key} is set by {zero_ours[key]}; remove it here")
        return value

    @model_validator(mode="after")
    def _offload_needs_zero(self) -> LearnerConfig:
        if self.offload_parameters != "none" and self.zero_stage != 3:
            raise ValueError(f"offload_parameters needs zero_stage 3, got {self.zero_stage}")
        if self.offload_optimizer != "none" and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3, got 0")
        return self


class SyncConfig(Section):
    """How the learner's weights reach the engines, and the proof that they did."""

    #: Through Ray's object store and shared memory of each node; auto is that too.
    transport: Literal["auto", "object_store"] = "auto"
    #: Largest accepted |logprob(engine) − logprob(learner)| on the probe; null: 1e-3 in float32, 0.5 in bfloat16.
    max_logprob_gap: float | None = Field(None, gt=0)
    #: Probe sequences compared after each publish, of the first eval or train prompts.
    probe_prompts: int = Field(4, ge=1)


class CheckpointConfig(Section):
    """Saving and resuming."""

    #: Batches between checkpoints; null saves none.
    every: int | None = Field(None, ge=1)
    #: Newest checkpoints kept.
    keep: int = Field(2, ge=1)
    #: The best one is kept as well: auto goes by the mean of avg@k over the held-out sets, a metric's name by that
    #: metric (larger is better); none keeps only the newest.
    keep_best: str = Field("auto", min_length=1)
    #: auto goes on from the newest good checkpoint of the run folder, never refuses a used one, else a path.
    resume: str = "never"


class HeldOutConfig(Section):
    """Scores on the held-out sets."""

    #: Batches between evaluations; the first and last step are always evaluated. null: never.
    every: int | None = Field(10, ge=1)
    #: Responses a problem.
    samples: int = Field(1, ge=1)
    #: 0 is greedy.
    temperature: float = Field(0.0, ge=0)
    #: Longest response; null takes rollout.max_response_tokens.
    max_response_tokens: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _greedy_once(self) -> HeldOutConfig:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"samples is {self.samples} at temperature 0, where all are equal: "
                "raise temperature, or set samples to 1"
            )
        return self


class WandbConfig(Section):
    """Weights & Biases, when installed."""

    project: str
    entity: str | None = None
    mode: Literal["online", "offline"] = "online"


class LoggingConfig(Section):
    """What a run writes beside metrics.jsonl."""

    tensorboard: bool = True
    wandb: WandbConfig | None = None
    #: Groups a step whose responses go to samples.jsonl; null writes all.
    sample_groups: int | None = Field(8, ge=0)
    #: Steps kept whole under steps/ for `maspo-dist replay`: none, all, or last:K. Each takes the room of a
    #: checkpoint, and the time to write one.
    record_steps: str = "none"

    @property
    def recorded_steps(self) -> int | None:
        """How many steps are kept, 0 none; None is all."""
        if self.record_steps == "all":
            return None
        return int(self.record_steps.removeprefix("last:")) if self.record_steps != "none" else 0

    @field_validator("record_steps")
    @classmethod
    def _steps_are_counted(cls, value: str) -> str:
        if value not in ("none", "all") and not re.fullmatch(r"last:[1-9]\d*", value):
            raise ValueError(f"record_steps must be none, all, or last:K with K of at least 1, got {value!r}")
        return value


class TrainConfig(Section):
    """The whole configuration of a run."""

    run: RunConfig
    model: ModelConfig
    data: DataConfig
    rollout: RolloutConfig
    reward: VerifierConfig = VerifierConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    learner: LearnerConfig = LearnerConfig()
    sync: SyncConfig = SyncConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: HeldOutConfig = HeldOutConfig()
    logging: LoggingConfig = LoggingConfig()
    cluster: ClusterConfig = ClusterConfig()

    @property
    def group_deadline_s(self) -> float:
        """Longest that a group may take over all its attempts: each waits for a worker, to be alone on it, and for
        its answer, all of which have deadlines of their own.
        """
        cluster = self.cluster
        return self.rollout.max_attempts * (cluster.turn_deadline_s + cluster.generate_timeout_s)

    @property
    def publish_deadline_s(self) -> float:
        """Longest from one publish to the next: a batch, its update, a new start of the learners, an evaluation."""
        cluster = self.cluster
        restart_s = cluster.restart_backoff_max_s + cluster.start_timeout_s + cluster.save_timeout_s
        return 2 * self.group_deadline_s + cluster.update_timeout_s + restart_s + cluster.publish_timeout_s

    @model_validator(mode="after")
    def _sections_fit(self) -> TrainConfig:
        if self.algorithm.mini_batches > self.rollout.prompts_per_step:
            raise ValueError(
                f"algorithm.mini_batches ({self.algorithm.mini_batches}) is more than rollout.prompts_per_step "
                f"({self.rollout.prompts_per_step}): a mini-batch needs at least one group"
            )
        ahead = 1 + self.algorithm.max_policy_age
        if (self.rollout.over_sampling or 1.0) > ahead:
            raise ValueError(
                f"rollout.over_sampling ({self.rollout.over_sampling:g}) is more than the {ahead} batches that "
                f"algorithm.max_policy_age ({self.algorithm.max_policy_age}) lets train: lower one or raise the other"
            )
        overlong = self.algorithm.overlong.buffer_tokens
        if overlong > self.rollout.max_response_tokens:
            raise ValueError(
                f"algorithm.overlong.buffer_tokens ({overlong}) is more than rollout.max_response_tokens "
                f"({self.rollout.max_response_tokens})"
            )
        return self
