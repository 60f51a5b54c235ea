"""Which function computes which loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from maspo_dist.algorithm.losses.bapo import bapo_loss
from maspo_dist.algorithm.losses.cispo import cispo_loss
from maspo_dist.algorithm.losses.clip import clip_loss
from maspo_dist.algorithm.losses.dac import dac_loss
from maspo_dist.algorithm.losses.gspo import gspo_loss
from maspo_dist.algorithm.losses.maspo import maspo_loss
from maspo_dist.algorithm.losses.sapo import sapo_loss
from maspo_dist.algorithm.losses.terms import TokenLoss, TokenTerms, token_terms
from maspo_dist.config import BapoLoss, CispoLoss, ClipLoss, DacLoss, GspoLoss, LossConfig, MaspoLoss, SapoLoss

LossFunction = Callable[[Any, TokenTerms], TokenLoss]

#: By the class of the loss's parameters, which is the function's first argument.
LOSSES: Mapping[type, LossFunction] = {
    MaspoLoss: maspo_loss,
    ClipLoss: clip_loss,
    SapoLoss: sapo_loss,
    GspoLoss: gspo_loss,
    CispoLoss: cispo_loss,
    DacLoss: dac_loss,
    BapoLoss: bapo_loss,
}


def token_loss(
    config: LossConfig, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, sequence_ids: Tensor
) -> TokenLoss:
    """Loss of each response token, before weights and aggregation.

    logprobs       [N] logπ, natural log; the only input that gradient flows through
    old_logprobs   [N] logπ_old
    advantages     [N], per token
    sequence_ids   [N] integers, which response a token belongs to (used by gspo)

    The dtype of loss and computation is float32, or float64 where `logprobs` is float64; any floating dtype comes in.
    No finite input gives a NaN or an infinity, in loss or gradient. Raises ValueError on unequal shapes.
    """
    return LOSSES[type(config)](config, token_terms(logprobs, old_logprobs, advantages, sequence_ids))
