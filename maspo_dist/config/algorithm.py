"""The section `algorithm`: loss, advantages, corrections, regularisers. Formulas are in `maspo_dist.algorithm`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from maspo_dist.config.losses import LossConfig, MaspoLoss, loss_class
from maspo_dist.config.section import Execution, Section

AggregateMode = Literal["token-mean", "seq-mean-token-sum", "seq-mean-token-mean"]


class EntropyAdvantage(Section):
    """Adds min(alpha·H, |A|/kappa) to the advantage, H the detached token entropy (arXiv 2506.14758)."""

    alpha: float = Field(0.4, ge=0)
    kappa: float = Field(2.0, gt=1)


class AdvantageConfig(Section):
    """Group-relative advantages."""

    #: Divide by the standard deviation of the group; false is Dr. GRPO.
    normalize_std: bool = True
    #: Entropy-shaped advantages; null turns them off.
    entropy: EntropyAdvantage | None = None


class CorrectionConfig(Section):
    """Weights for the mismatch between rollout engine and learner, π_old / π_behavior.

    tis            truncate the weight at `upper`
    icepop         zero where the weight leaves [lower, upper], the weight itself elsewhere
    sequence_mask  zero whole sequences whose weight leaves [lower, upper], 1 elsewhere; ignores `level`, since the
                   weight of a sequence is always its geometric mean
    """

    kind: Literal["none", "tis", "icepop", "sequence_mask"] = "none"
    #: token: each token has its own weight; sequence: the geometric mean over its response.
    level: Literal["token", "sequence"] = "token"
    #: Lower bound of the accepted weight (icepop, sequence_mask).
    lower: float = Field(0.5, ge=0, lt=1)
    #: Upper bound of the weight.
    upper: float = Field(2.0, gt=1)


class KlConfig(Section):
    """KL penalty to a frozen reference policy, which is loaded only if coefficient > 0."""

    coefficient: float = Field(0.0, ge=0)
    #: Estimator of KL(π ‖ π_ref) from samples; k1 in the reward only, since its gradient does not depend on π_ref.
    estimator: Literal["k1", "k2", "k3"] = "k3"
    #: Added to the loss, or subtracted from the reward before advantages.
    place: Literal["loss", "reward"] = "loss"

    @property
    def is_in_reward(self) -> bool:
        return self.coefficient > 0 and self.place == "reward"

    @model_validator(mode="after")
    def _has_a_gradient(self) -> KlConfig:
        if self.coefficient > 0 and self.place == "loss" and self.estimator == "k1":
            raise ValueError(
                f"coefficient is {self.coefficient:g} and estimator is k1, whose gradient in the loss does not depend "
                "on the reference: set place to reward, or estimator to k2 or k3"
            )
        return self


class OverlongConfig(Section):
    """Responses near the token limit (DAPO's soft punishment) and at it."""

    #: Tokens before the limit over which the penalty rises linearly; 0 turns it off.
    buffer_tokens: int = Field(0, ge=0)
    #: Penalty at the limit.
    penalty: float = Field(1.0, ge=0)
    #: Leave truncated responses out of the loss.
    mask_truncated: bool = False


class DynamicSamplingConfig(Section):
    """What happens to groups whose rewards are all equal, so that their advantages are 0."""

    #: keep trains on the group, drop leaves it out, refill draws another prompt instead. The loss of such a group has
    #: no gradient but that of a KL in the loss and of the entropy bonus, which are dropped with it. With a KL in the
    #: reward the group has advantages, and trains under any of the three.
    zero_variance: Literal["keep", "drop", "refill"] = "drop"
    #: Refills per step, as a multiple of rollout.prompts_per_step.
    max_refill_ratio: float = Field(1.0, ge=0)


class AlgorithmConfig(Section):
    """The update."""

    loss: SerializeAsAny[LossConfig] = MaspoLoss()
    advantage: AdvantageConfig = AdvantageConfig()
    #: How token losses become a scalar; the denominator counts the whole optimizer step.
    aggregate: AggregateMode = "token-mean"
    #: Optimizer steps per batch.
    mini_batches: int = Field(4, ge=1)
    #: Policy versions that generation may run ahead; 0 is strictly on-policy.
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
    allow_inert_trust_region: Execution[bool] = False

    @property
    def drops_zero_variance(self) -> bool:
        return self.dynamic_sampling.zero_variance != "keep" and not self.kl.is_in_reward

    @field_validator("loss", mode="before")
    @classmethod
    def _loss_by_kind(cls, value: object) -> object:
        return loss_class(value).model_validate(value) if isinstance(value, Mapping) else value

    @field_validator("correction", mode="before")
    @classmethod
    def _correction_by_name(cls, value: object) -> object:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _trust_region_is_live(self) -> AlgorithmConfig:
        stale_ratios = self.max_policy_age > 0 and self.old_logprobs == "rollout"
        is_inert = self.loss.has_trust_region and self.mini_batches == 1 and not stale_ratios
        if is_inert and not self.allow_inert_trust_region:
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
