"""Terms beside the policy loss: KL to a reference policy, and the penalty of long responses."""

from __future__ import annotations

from typing import Literal, assert_never

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from maspo_dist.algorithm.aggregate import sequence_sum
from maspo_dist.algorithm.losses.terms import log_ratio

KlEstimator = Literal["k1", "k2", "k3"]


def kl_penalty(logprobs: Tensor, ref_logprobs: Tensor, estimator: KlEstimator) -> Tensor:
    """Estimate of KL(π ‖ π_ref) at each sampled token, [N] → [N] nats, with gradient through logπ.

    d = clamp(logπ − logπ_ref, ±20)
    k1 = d          unbiased; as a loss its gradient has mean 0, so it belongs in the reward
    k2 = d² / 2     biased, low variance; its gradient is that of the KL
    k3 = e^−d − 1 + d   unbiased, never negative (J. Schulman, "Approximating KL divergence", 2020)
    """
    difference = log_ratio(logprobs, ref_logprobs.detach())
    match estimator:
        case "k1":
            return difference
        case "k2":
            return difference**2 / 2
        case "k3":
            return (-difference).exp() - 1 + difference
        case _:
            assert_never(estimator)


def response_kl(logprobs: Tensor, ref_logprobs: Tensor, sequence_ids: Tensor, estimator: KlEstimator) -> Tensor:
    """Estimate of KL(π ‖ π_ref) summed over each response, [S] in ascending order of sequence id.

    What `kl.place: reward` subtracts from the reward, times its coefficient. No gradient.
    """
    return sequence_sum(kl_penalty(logprobs.detach(), ref_logprobs, estimator), sequence_ids)


def overlong_penalty(
    response_tokens: NDArray[np.integer], max_response_tokens: int, buffer_tokens: int, penalty: float
) -> NDArray[np.float32]:
    """Reward added to responses near the limit, i[G] tokens → f32[G] ≤ 0 (DAPO, arXiv 2503.14476 eq. 13).

    0 up to max − buffer tokens, −penalty at the limit, linear in between; all 0 for a buffer of 0.
    Raises ValueError for a buffer longer than the limit.
    """
    if not 0 <= buffer_tokens <= max_response_tokens:
        raise ValueError(f"buffer_tokens must lie in [0, {max_response_tokens}], got {buffer_tokens}")
    if buffer_tokens == 0:
        return np.zeros(response_tokens.shape, dtype=np.float32)
    into_buffer = response_tokens.astype(np.float64) - (max_response_tokens - buffer_tokens)
    return (-penalty * np.clip(into_buffer / buffer_tokens, 0.0, 1.0)).astype(np.float32)
