"""The section `evaluation`: scores on the held-out sets during a run."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from maspo_dist.config.section import Section


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
