"""The learning rate of a batch."""

from __future__ import annotations

import math

from maspo_dist.config import LearnerConfig


def learning_rate(config: LearnerConfig, batch: int, max_batches: int) -> float:
    """Rate of batch 0, 1, …, the same in all its optimizer steps.

    Rises linearly over `warmup_steps` W: batch k < W gets (k + 1) / (W + 1) of `lr`. Then it is constant, or falls to 0
    at `max_batches` in a line or half a cosine.
    """
    warmup = config.warmup_steps
    if batch < warmup:
        return config.lr * (batch + 1) / (warmup + 1)
    progress = min(1.0, (batch - warmup) / max(1, max_batches - warmup))
    match config.schedule:
        case "constant":
            return config.lr
        case "linear":
            return config.lr * (1 - progress)
        case "cosine":
            return config.lr * (1 + math.cos(math.pi * progress)) / 2
