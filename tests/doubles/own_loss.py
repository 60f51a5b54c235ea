"""Losses of a user's own, named in a configuration as `python:doubles.own_loss:…`."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from maspo_dist.algorithm import TokenLoss, TokenTerms
from maspo_dist.config import LossConfig


class CauchyLoss(LossConfig):
    """ℓ = −A · w · ρ with the gate w = 1 / (1 + ((ρ − 1) / tau)²), which carries no gradient."""

    tau: float = Field(1.0, gt=0)
    is_separable: ClassVar[bool] = True

    def token_loss(self, terms: TokenTerms) -> TokenLoss:
        gate = 1 / (1 + ((terms.ratio.detach() - 1) / self.tau) ** 2)
        return TokenLoss(values=-terms.advantages * gate * terms.ratio, gate=gate)


class PlainLoss(LossConfig):
    """ℓ = −A · ρ: no trust region."""

    has_trust_region: ClassVar[bool] = False

    def token_loss(self, terms: TokenTerms) -> TokenLoss:
        return TokenLoss(values=-terms.advantages * terms.ratio, gate=torch.ones_like(terms.ratio).detach())


class BrokenLoss(PlainLoss):
    """Breaks the contract in the way that `how` names."""

    how: str

    def token_loss(self, terms: TokenTerms) -> TokenLoss:
        loss = super().token_loss(terms)
        match self.how:
            case "raises":
                raise RuntimeError("no such thing\nand more")
            case "no tokens":
                loss.values.max()
            case "a mean":
                return TokenLoss(values=loss.values.mean(), gate=loss.gate)
            case "live gate":
                return TokenLoss(values=loss.values, gate=terms.ratio)
            case "closed gate":
                return TokenLoss(values=loss.values, gate=loss.gate / 2)
            case "no gradient":
                return TokenLoss(values=loss.values.detach(), gate=loss.gate)
            case "infinite":
                return TokenLoss(values=loss.values / (terms.advantages * 0), gate=loss.gate)
        return loss


class WronglySeparableLoss(LossConfig):
    """Mixes the tokens of a micro-batch, but says that it does not."""

    is_separable: ClassVar[bool] = True

    def token_loss(self, terms: TokenTerms) -> TokenLoss:
        gate = torch.ones_like(terms.ratio).detach()
        return TokenLoss(values=terms.ratio.sum() * terms.advantages * terms.ratio, gate=gate)


class NotALoss:
    """Has neither parameters nor a `token_loss`."""
