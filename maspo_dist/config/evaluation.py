"""Held-out scores: the section `evaluation` of a run, and EvaluationConfig, of `maspo-dist eval`."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from maspo_dist.config.cluster import ClusterConfig
from maspo_dist.config.data import PromptConfig
from maspo_dist.config.environment import EnvironmentConfig
from maspo_dist.config.model import ModelConfig
from maspo_dist.config.rollout import EnginesConfig
from maspo_dist.config.section import Capacity, Execution, Location, Meaning, Name, Operation, PathText, Section
from maspo_dist.config.verifier import VerifierConfig


class HeldOutSampling(Section):
    """How held-out sets are sampled, during a run and by `maspo-dist eval`."""

    #: Responses per problem.
    samples: int = Field(1, ge=1)
    #: Sampling temperature; 0 is greedy.
    temperature: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _draws_differ(self) -> Self:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"samples is {self.samples} at temperature 0, where all responses are equal: "
                "raise temperature, or set samples to 1"
            )
        return self


class HeldOutConfig(HeldOutSampling):
    """Scores on the held-out sets."""

    #: Batches between evaluations; null: never. Otherwise the first and the last step are always evaluated.
    every: int | None = Field(10, ge=1)
    #: Longest response in tokens; null takes rollout.max_response_tokens.
    max_response_tokens: int | None = Field(None, ge=1)

    def is_due(self, step: int, last_step: int) -> bool:
        """Whether the policy after `step` batches is evaluated, in a run of `last_step` batches."""
        return self.every is not None and (step % self.every == 0 or step == last_step)


class EvaluationDataConfig(PromptConfig):
    """The held-out sets."""

    #: JSONL or Parquet files, or `hf:NAME[/CONFIG][:SPLIT]`, by name.
    sets: Location[dict[Name, PathText]] = Field(min_length=1)
    #: Longest prompt in tokens, after the template; the model's own context bounds it too.
    max_prompt_tokens: int = Field(32_768, ge=1)


class EvaluationSamplingConfig(HeldOutSampling):
    """How responses are sampled."""

    #: Share of probability to sample from, likeliest tokens first.
    top_p: float = Field(1.0, gt=0, le=1)
    #: Longest response in tokens.
    max_response_tokens: int = Field(2048, ge=1)
    #: Each response has a seed made of this seed, its set, its problem and its number.
    seed: int = Field(0, ge=0, lt=2**31)


class EvaluationEnginesConfig(EnginesConfig):
    """The engines."""

    seed_key: ClassVar[str] = "sampling.seed"
    #: Engines; null takes all GPUs of the cluster, or 1 engine without any.
    workers: Capacity[int | None] = Field(None, ge=1)
    #: Responses that a worker may have in flight.
    samples_in_flight: Capacity[int] = Field(512, ge=1)


class EvaluationConfig(Section):
    """The whole configuration of a standalone evaluation."""

    model: ModelConfig
    data: Meaning[EvaluationDataConfig]
    sampling: Meaning[EvaluationSamplingConfig] = EvaluationSamplingConfig()
    rollout: EvaluationEnginesConfig = EvaluationEnginesConfig()
    #: Tools or an environment; null: a response is one turn.
    environment: Meaning[EnvironmentConfig | None] = None
    reward: Execution[VerifierConfig] = VerifierConfig()
    cluster: Operation[ClusterConfig] = ClusterConfig()
