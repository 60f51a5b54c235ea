"""Advantages: of a response against its group, and shaped by token entropy."""

from __future__ import annotations

from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maspo_dist.config import EntropyAdvantage

_STD_EPSILON = 1e-6


@overload
def group_advantages(rewards: Tensor, normalize_std: bool = True) -> Tensor: ...
@overload
def group_advantages(rewards: NDArray[np.floating], normalize_std: bool = True) -> NDArray[np.floating]: ...
def group_advantages(
    rewards: Tensor | NDArray[np.floating], normalize_std: bool = True
) -> Tensor | NDArray[np.floating]:
    """(r − mean) / (std + 1e-6) over one group of responses to the same prompt, [G] → [G].

    std is the unbiased one (G − 1). `normalize_std=False` leaves it out (Dr. GRPO, arXiv 2503.20783).
    Exactly 0 where all rewards are equal and for a group of one. Computed in float64, returned in
    the array kind and floating dtype that came in.
    Raises ValueError unless rewards are [G], G ≥ 1, and finite.
    """
    if isinstance(rewards, Tensor):
        advantages = _advantages(rewards.detach().double().cpu().numpy(), normalize_std)
        dtype = rewards.dtype if rewards.is_floating_point() else torch.float32
        return torch.from_numpy(advantages).to(device=rewards.device, dtype=dtype)
    array = np.asarray(rewards)
    dtype_out = array.dtype if np.issubdtype(array.dtype, np.floating) else np.dtype(np.float32)
    return _advantages(array.astype(np.float64), normalize_std).astype(dtype_out)


def _advantages(rewards: NDArray[np.float64], normalize_std: bool) -> NDArray[np.float64]:
    if rewards.ndim != 1 or rewards.size == 0:
        raise ValueError(f"rewards must be [G] with G ≥ 1, got shape {list(rewards.shape)}")
    if not np.isfinite(rewards).all():
        raise ValueError(f"rewards must be finite, got {rewards.tolist()}")
    # Equal rewards are told apart by comparison: their mean may miss them by a rounding error.
    if (rewards == rewards[0]).all():
        return np.zeros_like(rewards)
    centred: NDArray[np.float64] = rewards - rewards.mean()
    scale = float(rewards.std(ddof=1)) + _STD_EPSILON if normalize_std else 1.0
    return centred / scale


def entropy_advantages(config: EntropyAdvantage, advantages: Tensor, entropy: Tensor) -> Tensor:
    """A + min(α·H, |A|/κ) for each token, H detached (arXiv 2506.14758); [N], [N] nats → [N].

    κ > 1 keeps the sign of A; a token with A = 0 stays at 0.
    """
    bonus = torch.minimum(config.alpha * entropy.detach().to(advantages.dtype), advantages.abs() / config.kappa)
    return advantages + bonus
