"""What the trust region had to do in a run, and what that suggests; computed from the rows of metrics.jsonl alone.

A trust region matters where a batch is used for many optimizer steps, or is stale. There hard clipping stops rare right
tokens from growing, and MASPO does not. With few steps or a low rate the region does nothing, and all losses learn
alike. With a high rate the policy leaves the data behind, which hurts MASPO more than a hard clip, since its gate
hardly limits tokens with a negative advantage.

    rule        holds where                                                  suggestion
    idle        `idle_share` ≥ 0.9                                           more optimizer steps, or a higher rate
    rare        `rare_cut` ≥ 0.01                                            MASPO instead of a hard clip
    hot         `distance` ≥ 0.02; or `distance` ≥ 0.003, the reward has     a lower rate, or fewer optimizer steps
                not risen, and the rule rare does not hold
    narrow      MASPO, not hot, and `weight_lost` ≥ 0.1                      a wider gate
    collapse    entropy has halved, and the reward has not risen             a lower rate, or fewer optimizer steps
    disorder    entropy has risen by half, and the reward has not risen      a lower rate, or a stricter negative side

A batch is idle only where PPO clipping would do little too: a loss without a trust region takes nothing away, and a
wide gate hardly more, however far the policy moves. Distance alone does not show a high rate: the policy also moves far
where a rare token grows, or where batches are stale.

The thresholds separate recorded runs, which the tests hold; they are no law.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

#: The metrics that a regime is measured by.
MEASURED = (
    "gradient/weight_lost",
    "gradient/weight_kept_by_ppo_clip",
    "gradient/rare_positive_cut_by_ppo_clip",
    "policy/kl_k3",
    "policy/entropy",
    "reward/mean",
)

_IDLE_WEIGHT_LOST = 1e-3
_IDLE_KEPT_BY_PPO = 0.99
_IDLE_SHARE = 0.9
_RARE_CUT = 0.01
_HOT_DISTANCE = 0.02
#: Of a run that gains nothing by it.
_HOT_DISTANCE_FOR_NOTHING = 0.003
_NARROW_WEIGHT_LOST = 0.1
#: Least gain of the mean reward that counts as learning.
_REWARD_GAIN = 0.02
#: Losses whose clip takes the whole gradient of a token. MASPO keeps more of a rare one.
_HARD_CLIPS = frozenset({"clip", "gspo", "bapo", "dac"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """Means over the batches of a run, unless stated otherwise.

    idle_share                    share of batches in which the loss took away less than 0.1 % of the gradient weight,
                                  and PPO clipping would have taken less than 1 %
    rare_cut                      share of the gradient weight that PPO clipping would cut from rare tokens with A > 0;
                                  mean of the quarter of the batches in which it is largest
    distance                      KL(π_old ‖ π), nats per token; median over the batches
    weight_lost                   gradient weight that the loss took away
    entropy_start, entropy_end    nats per token, of the first and the last quarter of the batches
    reward_gain                   mean reward of the last quarter minus that of the first twentieth, since a high rate
                                  does its damage early
    """

    idle_share: float
    rare_cut: float
    distance: float
    weight_lost: float
    entropy_start: float
    entropy_end: float
    reward_gain: float


def measure_regime(rows: Iterable[Mapping[str, float | None]]) -> Regime | None:
    """The regime of the batches in `rows`; None where no row has all numbers, as in runs of older versions."""
    batches = ([row.get(name) for name in MEASURED] for row in rows)
    whole = [[value for value in batch if value is not None] for batch in batches if None not in batch]
    if not whole:
        return None
    lost, kept_by_ppo, rare, distance, entropy, reward = zip(*whole, strict=True)
    idle = [ours < _IDLE_WEIGHT_LOST and ppo > _IDLE_KEPT_BY_PPO for ours, ppo in zip(lost, kept_by_ppo, strict=True)]
    quarter, twentieth = math.ceil(len(whole) / 4), math.ceil(len(whole) / 20)
    return Regime(
        idle_share=_mean(map(float, idle)),
        rare_cut=_mean(sorted(rare)[-quarter:]),
        distance=statistics.median(distance),
        weight_lost=_mean(lost),
        entropy_start=_mean(entropy[:quarter]),
        entropy_end=_mean(entropy[-quarter:]),
        reward_gain=_mean(reward[-quarter:]) - _mean(reward[:twentieth]),
    )


def describe_regime(regime: Regime) -> str:
    """The measures in one sentence."""
    return (
        f"a trust region had nothing to do in {regime.idle_share:.0%} of the batches; PPO clipping would cut up to "
        f"{regime.rare_cut:.1%} of the gradient from rare tokens that should grow; entropy went from "
        f"{regime.entropy_start:.3f} to {regime.entropy_end:.3f}"
    )


def suggestions(regime: Regime, loss: str) -> Iterator[str]:
    """A sentence per rule that holds; `loss` is algorithm.loss.kind. The rules are at the top of this module."""
    grows = regime.rare_cut >= _RARE_CUT
    has_learned = regime.reward_gain >= _REWARD_GAIN
    is_hot = regime.distance >= (_HOT_DISTANCE if grows or has_learned else _HOT_DISTANCE_FOR_NOTHING)
    if regime.idle_share >= _IDLE_SHARE:
        yield (
            "the trust region hardly acts, so the choice of the loss matters little: use each batch more, by more "
            "optimizer steps (algorithm.mini_batches) or a higher learner.lr"
        )
    if grows:
        if loss in _HARD_CLIPS:
            yield "clipping stops rare tokens that should grow: try algorithm.loss.kind=maspo, at a rate of its own"
        else:
            yield f"rare tokens grow here that PPO clipping would stop: {loss} may learn faster than clipping does"
    if is_hot:
        gate = ", a smaller algorithm.loss.sigma_base or algorithm.loss.negative=clip" if loss == "maspo" else ""
        yield (
            f"the policy moves far within a batch ({regime.distance:.2g} nats per token): try a lower learner.lr, "
            f"fewer algorithm.mini_batches{gate}"
        )
    elif loss == "maspo" and regime.weight_lost >= _NARROW_WEIGHT_LOST:
        yield f"the gate takes {regime.weight_lost:.1%} of the gradient away: try a larger algorithm.loss.sigma_base"
    if regime.entropy_end <= 0.5 * regime.entropy_start and not has_learned:
        yield "entropy fell by half without a gain in reward: try a lower learner.lr, or fewer algorithm.mini_batches"
    if regime.entropy_end >= 1.5 * regime.entropy_start and not has_learned:
        strict = ", or algorithm.loss.negative=clip" if loss == "maspo" else ""
        yield f"entropy rose by half without a gain in reward: try a lower learner.lr{strict}"


def regime_line(rows: Iterable[Mapping[str, float | None]], loss: str) -> str | None:
    """Measures and suggestions in one line; None as for `measure_regime`."""
    regime = measure_regime(rows)
    return None if regime is None else "; ".join([describe_regime(regime), *suggestions(regime, loss)])


def _mean(values: Iterable[float]) -> float:
    values = tuple(values)
    return math.fsum(values) / len(values)
