"""One entry for every token loss."""

from __future__ import annotations

from typing import assert_never

from torch import Tensor

from maspo_dist.algorithm.losses.bapo import BapoBounds, bapo_loss, starting_bounds
from maspo_dist.algorithm.losses.baselines import cispo_loss, clip_loss, dac_loss, gspo_loss, sapo_loss
from maspo_dist.algorithm.losses.maspo import maspo_loss
from maspo_dist.algorithm.losses.terms import TokenLoss, token_terms
from maspo_dist.config import BapoLoss, CispoLoss, ClipLoss, DacLoss, GspoLoss, LossConfig, MaspoLoss, SapoLoss


def token_loss(
    config: LossConfig,
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    sequence_ids: Tensor,
    bapo_bounds: BapoBounds | None = None,
) -> TokenLoss:
    """Loss of each response token, before weights and aggregation.

    logprobs       [N] logπ, natural log; the only input that gradient flows through
    old_logprobs   [N] logπ_old
    advantages     [N], one a token
    sequence_ids   [N] integers, which response a token belongs to (used by gspo)
    bapo_bounds    agreed bounds of this optimizer step; None takes the configured start (bapo only)

    Any floating dtype comes in; float32 (float64 for float64 logprobs) is computed in and returned.
    No finite input gives a NaN or an infinity, in loss or gradient. Raises ValueError on unequal shapes.
    """
    terms = token_terms(logprobs, old_logprobs, advantages, sequence_ids)
    match config:
        case MaspoLoss():
            return maspo_loss(config, terms)
        case ClipLoss():
            return clip_loss(config, terms)
        case SapoLoss():
            return sapo_loss(config, terms)
        case GspoLoss():
            return gspo_loss(config, terms)
        case CispoLoss():
            return cispo_loss(config, terms)
        case DacLoss():
            return dac_loss(config, terms)
        case BapoLoss():
            return bapo_loss(bapo_bounds or starting_bounds(config), terms)
        case _:
            assert_never(config)
