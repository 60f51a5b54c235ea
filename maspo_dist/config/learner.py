"""The section `learner`: DeepSpeed ranks and the optimizer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from maspo_dist.config.model import refuse_keys
from maspo_dist.config.section import EXECUTION, Effect, Execution, Listed, Meaning, Section

#: Keys of DeepSpeed's configuration, and the keys here that set them.
_DEEPSPEED_KEYS = {
    "train_batch_size": "rollout.prompts_per_step",
    "train_micro_batch_size_per_gpu": "learner.micro_batch_tokens",
    "gradient_accumulation_steps": "learner.micro_batch_tokens",
    "gradient_clipping": "learner.max_grad_norm",
    "optimizer": "learner.lr, betas, eps and weight_decay",
    "scheduler": "learner.schedule",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "zero_optimization.stage": "learner.zero_stage",
    "zero_optimization.offload_optimizer": "learner.offload_optimizer",
    "zero_optimization.offload_param": "learner.offload_parameters",
}
_DEEPSPEED_EFFECT = Effect(resume=True, compare=True, scores=True, inner={"zero_optimization": EXECUTION})

DecayRate = Annotated[float, Field(ge=0, lt=1, strict=True)]


class LoraConfig(Section):
    """Low-rank adapters (LoRA, arXiv 2106.09685): W stays as it is, and W + alpha / rank · B·A computes."""

    #: Rows of A and columns of B.
    rank: int = Field(16, ge=1)
    #: The product B·A counts alpha / rank times.
    alpha: float = Field(32.0, gt=0)
    #: Names of the linear layers that get an adapter, such as q_proj; null: all but the head.
    targets: Listed[str] | None = Field(None, min_length=1)
    #: Other trainers drop inputs of the adapter; here dropout would change ratios, so it must be 0.
    dropout: float = 0.0

    @field_validator("dropout")
    @classmethod
    def _no_dropout(cls, value: float) -> float:
        if value != 0:
            raise ValueError(f"dropout would change ratios, so it must be 0, got {value:g}: remove it")
        return value


class LearnerConfig(Section):
    """The DeepSpeed learner group."""

    #: Processes, on GPUs one GPU each.
    ranks: Execution[int] = Field(1, ge=1)
    #: Neighbouring ranks that share the tokens of each micro-batch, for contexts that do not fit one GPU. Attention
    #: exchanges tokens for heads in every layer, so these ranks should be on one node.
    sequence_parallel: Execution[int] = Field(1, ge=1)
    #: What ZeRO shards over the ranks: 0 nothing, 1 optimizer state, 2 gradients too, 3 weights too.
    zero_stage: Execution[Literal[0, 1, 2, 3]] = 2
    #: Most tokens (prompt and response) packed into one forward; a longer sample has a forward of its own.
    micro_batch_tokens: Execution[int] = Field(8192, ge=1)
    #: Learning rate of AdamW after warm-up.
    lr: Meaning[float] = Field(1e-6, gt=0)
    #: Decay rates of AdamW's two moments.
    betas: Meaning[tuple[DecayRate, DecayRate]] = (0.9, 0.999)
    #: Added to the denominator of AdamW's step.
    eps: Meaning[float] = Field(1e-8, gt=0)
    #: Weight decay of AdamW, decoupled from the gradient.
    weight_decay: Meaning[float] = Field(0.0, ge=0)
    #: Shape of the learning rate after warm-up, over run.max_steps.
    schedule: Meaning[Literal["constant", "linear", "cosine"]] = "constant"
    #: Batches over which the learning rate rises from 0.
    warmup_steps: Meaning[int] = Field(0, ge=0)
    #: Gradients are scaled down to this global norm.
    max_grad_norm: Meaning[float] = Field(1.0, gt=0)
    #: Train adapters and leave the weights of the model as they are; null trains all weights.
    lora: Meaning[LoraConfig | None] = None
    #: Recompute activations in backward, which saves memory and costs one more forward.
    gradient_checkpointing: Execution[bool] = False
    #: Where DeepSpeed keeps the optimizer state; cpu needs zero_stage 1 or more.
    offload_optimizer: Execution[Literal["none", "cpu"]] = "none"
    #: Where DeepSpeed keeps the weights between uses; cpu needs zero_stage 3.
    offload_parameters: Execution[Literal["none", "cpu"]] = "none"
    #: CPU threads per rank; null shares the cores out evenly.
    threads: Execution[int | None] = Field(None, ge=1)
    #: Further keys of DeepSpeed's configuration; keys that other settings set are refused.
    deepspeed: Annotated[dict[str, Any], _DEEPSPEED_EFFECT] = Field(default_factory=dict)

    @field_validator("deepspeed")
    @classmethod
    def _deepspeed_keys_not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        zero = value.get("zero_optimization", {})
        if not isinstance(zero, dict):
            raise ValueError(f"deepspeed.zero_optimization must be a section of keys, got {zero!r}")
        inner = {f"zero_optimization.{key}": entry for key, entry in zero.items()}
        refuse_keys("deepspeed", value | inner, _DEEPSPEED_KEYS)
        return value

    @property
    def data_parallel(self) -> int:
        """Groups of ranks among which the responses of a batch are divided."""
        return self.ranks // self.sequence_parallel

    @property
    def holds_whole_weights(self) -> bool:
        """Whether each rank holds the weights as engines get them, which stay in place until the next update."""
        return self.zero_stage < 3 and self.lora is None

    @model_validator(mode="after")
    def _sequence_groups_are_whole(self) -> LearnerConfig:
        if self.ranks % self.sequence_parallel:
            raise ValueError(
                f"sequence_parallel is {self.sequence_parallel}, which does not divide the {self.ranks} ranks: set "
                "ranks to a multiple of it"
            )
        return self

    @model_validator(mode="after")
    def _offload_needs_zero(self) -> LearnerConfig:
        if self.offload_parameters != "none" and self.zero_stage != 3:
            raise ValueError(f"offload_parameters needs zero_stage 3, got {self.zero_stage}")
        if self.offload_optimizer != "none" and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3, got 0")
        return self
