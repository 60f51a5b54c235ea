"""The section `evaluation`: scores on the held-out sets during a run."""

from __future__ import annotations

from pydantic import Field, model_validator

from maspo_dist.config.section import Section


def require_draws_differ(samples: int, temperature: float) -> None:
    """Raises ValueError where all responses to a problem would be equal."""
    if temperature == 0 and samples > 1:
        raise ValueError(
            f"samples is {samples} at temperature 0, where all are equal: raise temperature, or set samples to 1"
        )


class HeldOutConfig(Section):
    """Scores on the held-out sets."""

    #: Batches between evaluations; null: never. Otherwise the first and the last step are always evaluated.
    every: int | None = Field(10, ge=1)
    #: Responses per problem.
    samples: int = Field(1, ge=1)
    #: Sampling temperature; 0 is greedy.
    temperature: float = Field(0.0, ge=0)
    #: Longest response in tokens; null takes rollout.max_response_tokens.
    max_response_tokens: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _draws_differ(self) -> HeldOutConfig:
        require_draws_differ(self.samples, self.temperature)
        return self
