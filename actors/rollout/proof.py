"""The proof that an engine holds the weights of a publish.

    layer        when             compares                                          sees
    bytes        every publish    the hash of the received bytes with the learner's damage on the way
    path         first publish    the engine's parameters after the weights, after  parameters that a load does not
                 of a worker      other weights, and after the weights again        reach, all of them
    values       every publish    8 columns of each matrix, as the engine computes  a layer that kept older weights,
                                  with them, and whole vectors, with the weights    to the last bit of these columns
    logprobs     every publish    the engine's logprobs with the learner's          arithmetic that differs

The first three are exact. The last depends on rounding: its mean gap at policy version 0, when both sides hold the
weights of the model's folder, is the measure for all later publishes. The controller keeps that mean and stores it in
checkpoints; each `WeightUpdate` carries the limit. A worker that joins later, and a resumed run, are held to the same
limit and to the same first publish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from maspo_dist.errors import WeightSyncError
from maspo_dist.types import FloatArray

#: Largest accepted mean gap at policy version 0, by dtype; a wrong model is far above it.
_AT_START: Mapping[str, float] = {"float32": 1e-3, "bfloat16": 0.2}
#: No limit is below this, by dtype: a mean at version 0 can be small by chance.
_LEAST: Mapping[str, float] = {"float32": 1e-4, "bfloat16": 0.02}
#: Stale parameters that an error lists.
_NAMED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LogprobGaps:
    """Mean and largest |logprob(engine) − logprob(learner)| over all tokens of the probes."""

    mean: float
    largest: float


def logprob_gaps(got: Sequence[FloatArray], expected: Sequence[FloatArray]) -> LogprobGaps:
    """The gaps between the logprobs of equal probes; 0 without probes. A logprob that is not a number is a gap of ∞."""
    with np.errstate(invalid="ignore"):
        gaps = [np.abs(ours - theirs, dtype=np.float64) for ours, theirs in zip(got, expected, strict=True)]
    flat = np.nan_to_num(np.concatenate([np.zeros(0), *gaps]), nan=np.inf, posinf=np.inf)
    return LogprobGaps(mean=float(flat.mean()), largest=float(flat.max())) if flat.size else _NO_GAPS


def mean_gap_limit(configured: float | None, dtype: str, at_start: float | None) -> float:
    """The largest accepted mean gap: `sync.max_mean_logprob_gap`, or else twice the mean `at_start`.

    `at_start` is the mean at policy version 0; None while it is being measured, or where it was not kept.
    """
    if configured is not None:
        return configured
    return _AT_START[dtype] if at_start is None else max(2 * at_start, _LEAST[dtype])


def require_proven(
    worker: str, version: int, unreached: Sequence[str], stale: Sequence[str], gaps: LogprobGaps, limit: float
) -> None:
    """Raises WeightSyncError, which names what is stale, when a layer of the proof fails."""
    measured = f"logprobs differ from the learner's by {gaps.mean:.3g} on average, at most by {gaps.largest:.3g}"
    if stale:
        culprit = f"it computes from other values than the published values of {_listed(stale)}; {measured}"
    elif unreached:
        culprit = f"a publish does not reach {_listed(unreached)}"
    elif gaps.mean > limit:
        culprit = (
            f"{measured}, and sync.max_mean_logprob_gap is {limit:.3g}; all parameters that can be read hold the "
            "published values, so the engine computes with them in another way"
        )
    else:
        return
    raise WeightSyncError(f"{worker} does not hold policy version {version}: {culprit}")


def _listed(names: Sequence[str]) -> str:
    others = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {others} other parameters" if others > 0 else "")


_NO_GAPS = LogprobGaps(mean=0.0, largest=0.0)
