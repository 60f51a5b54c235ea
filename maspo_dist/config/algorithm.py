"""What is optimised: losses, advantages, corrections, regularisers.

Formulas stand with their code in `maspo_dist.algorithm`; here are the settings and their bounds.
"""

from __future__ import annotations

import warnings
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Section(BaseModel):
    """Base of every section: unknown keys refused, values checked, frozen once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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

AggregateMode = Literal["token-mean", "seq-mean-token-sum", "seq-mean-token-mean"]


class EntropyAdvantage(Section):
    """Adds min(alpha·H, |A|/kappa) to the advantage, H the detached token entropy (arXiv 2506.14758)."""

    alpha: float = Field(0.4, ge=0)
    kappa: float = Field(2.0, gt=1)


class AdvantageConfig(Section):
    """Group-relative advantages."""

    #: Divide by the group's standard deviation; false is Dr. GRPO.
    normalize_std: bool = True
    #: Entropy-shaped advantages; null leaves them alone.
    entropy: EntropyAdvantage | None = None


class CorrectionConfig(Section):
    """Weights for the mismatch between rollout engine and learner, π_old / π_behavior.

    tis            truncate the weight at `upper`
    icepop         zero where the weight leaves [lower, upper], the weight itself elsewhere
    sequence_mask  zero whole sequences whose weight leaves [lower, upper], 1 elsewhere; always
                   judges the geometric mean, whatever `level` says
    """

    kind: Literal["none", "tis", "icepop", "sequence_mask"] = "none"
    #: `token` weighs each token alone, `sequence` by the geometric mean over its response.
    level: Literal["token", "sequence"] = "token"
    #: Lower bound of the accepted weight (icepop, sequence_mask).
    lower: float = Field(0.5, ge=0, lt=1)
    #: Upper bound of the weight.
    upper: float = Field(2.0, gt=1)


class KlConfig(Section):
    """KL penalty to a frozen reference policy; the reference is only loaded when coefficient > 0."""

    coefficient: float = Field(0.0, ge=0)
    #: Estimator of KL(π ‖ π_ref) from samples.
    estimator: Literal["k1", "k2", "k3"] = "k3"
    #: Added to the loss, or subtracted from the reward before advantages.
    place: Literal["loss", "reward"] = "loss"


class OverlongConfig(Section):
    """Responses near the token limit (DAPO's soft punishment) and at it."""

    #: The last `buffer_tokens` before the limit cost up to `penalty`, linearly; 0 turns it off.
    buffer_tokens: int = Field(0, ge=0)
    penalty: float = Field(1.0, ge=0)
    #: Leave truncated responses out of the loss.
    mask_truncated: bool = False


class DynamicSamplingConfig(Section):
    """What happens to groups whose rewards are all equal: they carry no gradient."""

    #: keep trains on them as zeros, drop leaves them out, refill draws another prompt instead.
    zero_variance: Literal["keep", "drop", "refill"] = "drop"
    #: Refills per step, as a multiple of rollout.prompts_per_step.
    max_refill_ratio: float = Field(1.0, ge=0)


class AlgorithmConfig(Section):
    """The update."""

    loss: LossConfig = MaspoLoss()
    advantage: AdvantageConfig = AdvantageConfig()
    #: How token losses become a scalar; the denominator is that of the whole optimizer step.
    aggregate: AggregateMode = "token-mean"
    #: Optimizer steps per batch.
    mini_batches: int = Field(4, ge=1)
    #: Generation may run ahead this many policy versions; 0 is strictly on-policy.
    max_policy_age: int = Field(0, ge=0)
    #: logπ_old: recomputed by the learner before the batch's first update, or the rollout engine's.
    old_logprobs: Literal["recompute", "rollout"] = "recompute"
    correction: CorrectionConfig = CorrectionConfig()
    kl: KlConfig = KlConfig()
    #: Weight of the entropy bonus in the loss.
    entropy_bonus: float = Field(0.0, ge=0)
    overlong: OverlongConfig = OverlongConfig()
    dynamic_sampling: DynamicSamplingConfig = DynamicSamplingConfig()
    #: Allow settings under which the ratio is exactly 1 and the trust region does nothing.
    allow_inert_trust_region: bool = False

    @field_validator("loss", mode="before")
    @classmethod
    def _maspo_unless_said(cls, value: object) -> object:
        return {"kind": "maspo", **value} if isinstance(value, dict) else value

    @field_validator("correction", mode="before")
    @classmethod
    def _correction_by_name(cls, value: object) -> object:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _trust_region_is_live(self) -> AlgorithmConfig:
        stale_ratios = self.max_policy_age > 0 and self.old_logprobs == "rollout"
        if self.mini_batches == 1 and not stale_ratios and not self.allow_inert_trust_region:
            raise ValueError(
                f"mini_batches is 1, so the ratio is exactly 1 and the {self.loss.kind} trust region does nothing: "
                "set mini_batches to 2 or more, or max_policy_age above 0 with old_logprobs: rollout, "
                "or allow_inert_trust_region: true"
            )
        if self.correction.kind != "none" and self.old_logprobs == "rollout":
            raise ValueError(
                f"correction is {self.correction.kind} but old_logprobs is rollout, so the weight is exactly 1: "
                "set old_logprobs to recompute, or correction to none"
            )
        return self
