"""Settings of `maspo-dist eval`: a model, held-out sets, and how responses are drawn and scored."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from maspo_dist.config.cluster import ClusterConfig
from maspo_dist.config.section import Section
from maspo_dist.config.sections import (
    MODEL_ENGINE_KEYS,
    HeldOutSets,
    ModelConfig,
    PromptConfig,
    refuse_keys,
)
from maspo_dist.config.verifier import VerifierConfig


class EvaluationDataConfig(PromptConfig):
    """The held-out sets."""

    #: JSONL or Parquet files, or `hf:NAME[:SPLIT]`, by name.
    sets: HeldOutSets = Field(min_length=1)
    #: Longest prompt, after the template; the model's own context bounds it too.
    max_prompt_tokens: int = Field(32_768, ge=1)


class EvaluationSamplingConfig(Section):
    """How responses are drawn."""

    #: Responses a problem.
    samples: int = Field(1, ge=1)
    #: 0 is greedy.
    temperature: float = Field(0.0, ge=0)
    #: Share of probability that tokens are drawn from, likeliest first.
    top_p: float = Field(1.0, gt=0, le=1)
    #: Longest response.
    max_response_tokens: int = Field(2048, ge=1)
    #: Each response draws from a seed made of this one, its set, its problem and its number.
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _greedy_once(self) -> EvaluationSamplingConfig:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"samples is {self.samples} at temperature 0, where all are equal: "
                "raise temperature, or set samples to 1"
            )
        return self


class EvaluationEnginesConfig(Section):
    """The vLLM engines. Scores do not depend on how many there are."""

    #: Engines; null takes every GPU of the cluster, or one where there is none.
    workers: int | None = Field(None, ge=1)
    #: GPUs a worker.
    tensor_parallel: int = Field(1, ge=1)
    #: Responses that a worker may have in flight.
    samples_in_flight: int = Field(512, ge=1)
    #: Arguments passed to vLLM's engine as they are.
    engine: dict[str, Any] = Field(default_factory=dict)

    @field_validator("engine")
    @classmethod
    def _engine_keys_not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        return refuse_keys("engine", value, {**MODEL_ENGINE_KEYS, "seed": "sampling.seed"})


class EvaluationConfig(Section):
    """The whole configuration of a standalone evaluation."""

    model: ModelConfig
    data: EvaluationDataConfig
    sampling: EvaluationSamplingConfig = EvaluationSamplingConfig()
    rollout: EvaluationEnginesConfig = EvaluationEnginesConfig()
    reward: VerifierConfig = VerifierConfig()
    cluster: ClusterConfig = ClusterConfig()
