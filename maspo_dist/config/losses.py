"""Parameters of the token losses. Formulas stand beside their code in `maspo_dist.algorithm.losses`."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from maspo_dist.config.extension import is_extension, load_extension
from maspo_dist.config.section import Section
from maspo_dist.errors import ConfigError


class LossConfig(Section):
    """Base of the parameters of every loss; `maspo_dist.algorithm.OwnLoss` says how to write a loss of your own."""

    #: Name of the loss: the default of `kind` in a class below, or python:module:Name.
    kind: str
    #: Whether value and gradient of a token depend on no other token. A separable loss trains faster.
    is_separable: ClassVar[bool] = False
    #: Whether the loss limits how far the ratio moves from 1. Settings that keep every ratio at 1 are then refused.
    has_trust_region: ClassVar[bool] = True

    @model_validator(mode="before")
    @classmethod
    def _name_own_class(cls, values: object) -> object:
        if isinstance(values, dict) and cls.model_fields["kind"].is_required():
            return {"kind": f"python:{cls.__module__}:{cls.__name__}"} | values
        return values


class MaspoLoss(LossConfig):
    """MASPO (arXiv 2602.17550). `alpha: 0` turns mass off; `beta_pos: 0, beta_neg: 0` risk."""

    kind: Literal["maspo"] = "maspo"
    is_separable: ClassVar[bool] = True
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
    #: Lower clamp of the risk factor.
    risk_min: float = Field(0.1, gt=0)
    #: Upper clamp of the risk factor.
    risk_max: float = Field(10.0, gt=0)
    #: Let gradients flow through the gate (research; the sign can flip at large ratios).
    differentiate_gate: bool = False
    #: Where A < 0: maspo is the paper's gate; clip is PPO's clip at ρ = 0.8, which the paper does not have.
    negative: Literal["maspo", "clip"] = "maspo"
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


class ClipLoss(LossConfig):
    """PPO/GRPO clipping. Clip-Higher is `epsilon_high: 0.28`; `dual_clip: 3.0` bounds A < 0."""

    kind: Literal["clip"] = "clip"
    is_separable: ClassVar[bool] = True
    #: Lower bound of the ratio is 1 − epsilon_low.
    epsilon_low: float = Field(0.2, ge=0, lt=1)
    #: Upper bound of the ratio is 1 + epsilon_high.
    epsilon_high: float = Field(0.2, ge=0)
    #: Lower bound c·A of the objective where A < 0.
    dual_clip: float | None = Field(None, gt=1)


class SapoLoss(LossConfig):
    """SAPO's soft gate 4/τ · sigmoid(τ(ρ − 1))."""

    kind: Literal["sapo"] = "sapo"
    is_separable: ClassVar[bool] = True
    #: Temperature where A > 0.
    tau_pos: float = Field(1.0, gt=0)
    #: Temperature where A ≤ 0.
    tau_neg: float = Field(1.05, gt=0)


class GspoLoss(LossConfig):
    """GSPO: one clipped ratio per sequence, the geometric mean of its token ratios."""

    kind: Literal["gspo"] = "gspo"
    epsilon_low: float = Field(3e-4, ge=0, lt=1)
    epsilon_high: float = Field(4e-4, ge=0)


class CispoLoss(LossConfig):
    """CISPO: REINFORCE weighted by the clipped, detached ratio."""

    kind: Literal["cispo"] = "cispo"
    is_separable: ClassVar[bool] = True
    #: Lower bound of the weight is 1 − epsilon_low; from 1 on, as in published recipes, there is no lower bound.
    epsilon_low: float = Field(0.2, ge=0)
    epsilon_high: float = Field(0.2, ge=0)


class DacLoss(LossConfig):
    """Dynamic Adaptive Clipping (arXiv 2509.02333): bounds widen as π_old falls."""

    kind: Literal["dac"] = "dac"
    is_separable: ClassVar[bool] = True
    epsilon_low: float = Field(0.16, ge=0)
    epsilon_high: float = Field(0.2, ge=0)


class BapoLoss(LossConfig):
    """BAPO (arXiv 2510.18927): the clip bounds move until positive tokens contribute enough."""

    kind: Literal["bapo"] = "bapo"
    is_separable: ClassVar[bool] = True
    #: Start, limit and step of the lower bound.
    lower_start: float = Field(0.8, gt=0, le=1)
    lower_stop: float = Field(0.95, gt=0, le=1)
    lower_step: float = Field(0.05, ge=0.001)
    #: Start, limit and step of the upper bound.
    upper_start: float = Field(1.2, ge=1)
    upper_stop: float = Field(2.0, ge=1)
    upper_step: float = Field(0.1, ge=0.001)
    #: Wanted ratio of positive to negative clipped contributions in an optimizer step.
    target: float = Field(0.5, gt=0)

    @model_validator(mode="after")
    def _ranges(self) -> BapoLoss:
        if self.lower_stop < self.lower_start:
            raise ValueError(f"lower_stop must be at least lower_start ({self.lower_start:g})")
        if self.upper_stop < self.upper_start:
            raise ValueError(f"upper_stop must be at least upper_start ({self.upper_start:g})")
        return self


class DppoLoss(LossConfig):
    """DPPO (arXiv 2602.04879): a token is masked once its probability has changed by more than a threshold."""

    kind: Literal["dppo"] = "dppo"
    is_separable: ClassVar[bool] = True
    #: Largest fall of the probability where A < 0.
    threshold_low: float = Field(0.2, ge=0)
    #: Largest rise of the probability where A > 0.
    threshold_high: float = Field(0.2, ge=0)
    #: Weight of the squared log-ratio, which pulls every token with A ≠ 0 back to its old probability.
    penalty: float = Field(1e-3, ge=0)


_BUILT_IN: Mapping[str, type[LossConfig]] = {
    loss.model_fields["kind"].default: loss
    for loss in (MaspoLoss, ClipLoss, SapoLoss, GspoLoss, CispoLoss, DacLoss, BapoLoss, DppoLoss)
}


def loss_class(section: Mapping[str, object]) -> type[LossConfig]:
    """The class that `kind` names; MaspoLoss without a kind. Raises ConfigError when `kind` names no loss."""
    kind = section.get("kind", "maspo")
    if isinstance(kind, str) and is_extension(kind):
        found = load_extension(kind, "algorithm.loss.kind")
        if isinstance(found, type) and issubclass(found, LossConfig) and callable(getattr(found, "token_loss", None)):
            return found
        raise ConfigError(
            f"algorithm.loss.kind is {kind!r}, which is no loss: derive the class from maspo_dist.config.LossConfig "
            "and give it a method token_loss"
        )
    if isinstance(kind, str) and kind in _BUILT_IN:
        return _BUILT_IN[kind]
    # "ppo" is the beginner's name of clip, and no misspelt "dppo".
    near = difflib.get_close_matches(str(kind), [name for name in _BUILT_IN if str(kind) not in name], n=1)
    known = f"known losses: {', '.join(map(repr, _BUILT_IN))} and python:module:Name"
    hint = f"did you mean {near[0]}?" if near else known
    raise ConfigError(f"algorithm.loss.kind: no such loss (value {kind!r}); {hint}")
