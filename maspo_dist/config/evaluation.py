"""EvaluationConfig, of `maspo-dist eval`: a model, held-out sets, and how responses are sampled and scored."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from maspo_dist.config.cluster import ClusterConfig
from maspo_dist.config.data import HeldOutSets, PromptConfig
from maspo_dist.config.heldout import require_draws_differ
from maspo_dist.config.model import MODEL_ENGINE_KEYS, ModelConfig, refuse_keys
from maspo_dist.config.section import Capacity, Execution, Location, Meaning, Operation, Section
from maspo_dist.config.verifier import VerifierConfig


class EvaluationDataConfig(PromptConfig):
    """The held-out sets."""

    #: JSONL or Parquet files, or `hf:NAME[:SPLIT]`, by name.
    sets: Location[HeldOutSets] = Field(min_length=1)
    #: Longest prompt in tokens, after the template; the model's own context bounds it too.
    max_prompt_tokens: int = Field(32_768, ge=1)


class EvaluationSamplingConfig(Section):
    """How responses are sampled."""

    #: Responses per problem.
    samples: int = Field(1, ge=1)
    #: Sampling temperature; 0 is greedy.
    temperature: float = Field(0.0, ge=0)
    #: Share of probability that tokens are sampled from, likeliest first.
    top_p: float = Field(1.0, gt=0, le=1)
    #: Longest response in tokens.
    max_response_tokens: int = Field(2048, ge=1)
    #: Each response has a seed made of this seed, its set, its problem and its number.
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _draws_differ(self) -> EvaluationSamplingConfig:
        require_draws_differ(self.samples, self.temperature)
        return self


class EvaluationEnginesConfig(Section):
    """The vLLM engines. Scores do not depend on their number."""

    #: Engines; null takes every GPU of the cluster, or starts 1 where there is none.
    workers: Capacity[int | None] = Field(None, ge=1)
    #: GPUs per worker.
    tensor_parallel: Execution[int] = Field(1, ge=1)
    #: Responses that a worker may have in flight.
    samples_in_flight: Capacity[int] = Field(512, ge=1)
    #: Arguments passed to vLLM's engine unchanged.
    engine: Execution[dict[str, Any]] = Field(default_factory=dict)

    @field_validator("engine")
    @classmethod
    def _engine_keys_not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        return refuse_keys("engine", value, {**MODEL_ENGINE_KEYS, "seed": "sampling.seed"})


class EvaluationConfig(Section):
    """The whole configuration of a standalone evaluation."""

    model: ModelConfig
    data: Meaning[EvaluationDataConfig]
    sampling: Meaning[EvaluationSamplingConfig] = EvaluationSamplingConfig()
    rollout: EvaluationEnginesConfig = EvaluationEnginesConfig()
    reward: Execution[VerifierConfig] = VerifierConfig()
    cluster: Operation[ClusterConfig] = ClusterConfig()
