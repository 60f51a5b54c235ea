"""From token losses to a scalar."""

from __future__ import annotations

from torch import Tensor

from maspo_dist.algorithm.sequences import sequence_lengths
from maspo_dist.config import AggregateMode

# The authors' code divides by length + 1e-8; kept, so that results agree to the last digit.
_LENGTH_EPSILON = 1e-8


def aggregate(values: Tensor, sequence_ids: Tensor, mode: AggregateMode, denominator: float) -> Tensor:
    """One micro-batch's share of the optimizer step's loss; shares add up over micro-batches and ranks.

    token-mean            Σ_tokens value / denominator
    seq-mean-token-sum    Σ_sequences (Σ_tokens value) / denominator
    seq-mean-token-mean   Σ_sequences (Σ_tokens value / tokens of the sequence) / denominator

    values, sequence_ids   [N]; N may be 0, which gives 0 with a gradient path
    denominator            of the whole optimizer step, over all ranks: response tokens for
                           token-mean, responses for the other two

    Returns a scalar in the dtype of `values`. Raises ValueError for a denominator that is not positive.
    """
    if not denominator > 0:
        raise ValueError(f"denominator must be above 0, got {denominator}")
    if mode == "seq-mean-token-mean":
        index, lengths = sequence_lengths(sequence_ids)
        values = values / (lengths.to(values.dtype) + _LENGTH_EPSILON)[index]
    return values.sum() / denominator
