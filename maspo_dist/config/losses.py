"""Parameters of the token losses. Formulas stand beside their code in `maspo_dist.algorithm.losses`."""

from __future__ import annotations

import warnings
from typing import Annotated, Literal

from pydantic import Field, model_validator

from maspo_dist.config.section import Section


class MaspoLoss(Section):
    """MASPO (arXiv 2602.17550). `alpha: 0` turns mass off; `beta_pos: 0, beta_neg: 0` risk."""

    kind: Literal["maspo"] = "maspo"
    #: Gate width of a token with probability 1 and advantage 0.
    sigma_base: float = Field(1.0, gt=0)
    #: Mass exponent: width grows as π_old^−alpha. Outside [0, 1] is allowed with a warning.
    alpha: float = 0.3
    #: Upper clamp of the mass-scaled width; at least sigma_base.
    sigma_max: float = Field(10.0, gt=0)
    #: How much a positive advantage widens the gate.
    beta_pos: float = Field(0.03, ge=0)
    #: How much a negative advantage narrows the gate.
    beta_neg: float = Field(0.03, ge=0)
    #: Clamps of the risk factor.
    risk_min: float = Field(0.1, gt=0)
    risk_max: float = Field(10.0, gt=0)
    #: Let gradients flow through the gate (research; the sign can flip at large ratios).
    differentiate_gate: bool = False
    #: Cap on the ratio where A < 0 and ρ > 1, which the paper leaves unbounded (dual clip).
    negative_ratio_cap: float | None = Field(None, gt=1)

    @model_validator(mode="after")
    def _ranges(self) -> MaspoLoss:
        if self.sigma_max < self.sigma_base:
            raise ValueError(f"sigma_max must be at least sigma_base ({self.sigma_base:g}), got {self.sigma_max:g}")
        if self.risk_max < self.risk_min:
            raise ValueError(f"risk_max must be at least risk_min ({self.risk_min:g}), got {self.risk_max:g}")
        if not 0 <= self.alpha <= 1:
            warnings.warn(
                f"algorithm.loss.alpha is {self.alpha:g}; the paper's range is [0, 1]", UserWarning, stacklevel=2
            )
        return self


class ClipLoss(Section):
    """PPO/GRPO clipping. Clip-Higher is `epsilon_high: 0.28`; `dual_clip: 3.0` bounds A < 0."""

    kind: Literal["clip"] = "clip"
    #: The ratio is clipped to [1 − epsilon_low, 1 + epsilon_high].
    epsilon_low: float = Field(0.2, ge=0, lt=1)
    epsilon_high: float = Field(0.2, ge=0)
    #: Lower bound c·A of the objective where A < 0.
    dual_clip: float | None = Field(None, gt=1)


class SapoLoss(Section):
    """SAPO's soft gate 4/τ · sigmoid(τ(ρ − 1))."""

    kind: Literal["sapo"] = "sapo"
    #: Temperature where A > 0.
    tau_pos: float = Field(1.0, gt=0)
    #: Temperature where A ≤ 0.
    tau_neg: float = Field(1.05, gt=0)


class GspoLoss(Section):
    """GSPO: one clipped ratio a sequence, the geometric mean of its token ratios."""

    kind: Literal["gspo"] = "gspo"
    epsilon_low: float = Field(3e-4, ge=0, lt=1)
    epsilon_high: float = Field(4e-4, ge=0)


class CispoLoss(Section):
    """CISPO: REINFORCE weighted by the clipped, detached ratio."""

    kind: Literal["cispo"] = "cispo"
    epsilon_low: float = Field(0.2, ge=0, le=1)
    epsilon_high: float = Field(0.2, ge=0)


class DacLoss(Section):
    """Dynamic Adaptive Clipping (arXiv 2509.02333): bounds widen as π_old falls."""

    kind: Literal["dac"] = "dac"
    epsilon_low: float = Field(0.16, ge=0)
    epsilon_high: float = Field(0.2, ge=0)


class BapoLoss(Section):
    """BAPO (arXiv 2510.18927): clip bounds move until positive tokens carry their share."""

    kind: Literal["bapo"] = "bapo"
    #: Where the bounds start, how far they may go, and by how much they move.
    lower_start: float = Field(0.8, gt=0, le=1)
    lower_stop: float = Field(0.95, gt=0, le=1)
    lower_step: float = Field(0.05, ge=0.001)
    upper_start: float = Field(1.2, ge=1)
    upper_stop: float = Field(2.0, ge=1)
    upper_step: float = Field(0.1, ge=0.001)
    #: Wanted ratio of positive to negative clipped contribution over the optimizer step.
    target: float = Field(0.5, gt=0)

    @model_validator(mode="after")
    def _ranges(self) -> BapoLoss:
        if self.lower_stop < self.lower_start:
            raise ValueError(f"lower_stop must be at least lower_start ({self.lower_start:g})")
        if self.upper_stop < self.upper_start:
            raise ValueError(f"upper_stop must be at least upper_start ({self.upper_start:g})")
        return self


LossConfig = Annotated[
    MaspoLoss | ClipLoss | SapoLoss | GspoLoss | CispoLoss | DacLoss | BapoLoss, Field(discriminator="kind")
]
