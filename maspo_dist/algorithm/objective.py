"""The whole objective of one micro-batch: what the learner differentiates and a replay recomputes.

    A'    = A + min(α·H, |A|/κ)                         where algorithm.advantage.entropy is set
    value = c · ℓ(logπ, logπ_old, A') + k · KL − b · H   token by token
    loss  = aggregate(value)

c the mismatch weight, k the KL coefficient (place: loss), b the entropy bonus.

A loss that is separable is a sum over tokens of terms in the token's own logπ and H; `loss_by_parts` takes
it over some tokens at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maspo_dist.algorithm.advantages import entropy_advantages
from maspo_dist.algorithm.aggregate import aggregate
from maspo_dist.algorithm.correction import Correction, correction_weights
from maspo_dist.algorithm.diagnostics import trust_region_totals
from maspo_dist.algorithm.logprobs import LossShare, TokenLogprobs
from maspo_dist.algorithm.losses.registry import token_loss
from maspo_dist.algorithm.regularisers import kl_penalty
from maspo_dist.algorithm.totals import Totals
from maspo_dist.config import AlgorithmConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledTokens:
    """Response tokens of a micro-batch as they were sampled, each [N]; N may be 0.

    old_logprobs        logπ_old
    advantages          of each token
    sequence_ids        integers, which response a token belongs to
    behavior_logprobs   of the rollout engine; needed where a correction is set
    ref_logprobs        of the reference policy; needed where kl.coefficient > 0 and kl.place is loss
    """

    old_logprobs: Tensor
    advantages: Tensor
    sequence_ids: Tensor
    behavior_logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch(SampledTokens):
    """The same tokens under the policy in training, each [N].

    logprobs   logπ; with gradient where the loss is differentiated
    entropy    nats; with gradient only where the entropy bonus needs it
    """

    logprobs: Tensor
    entropy: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One micro-batch's share; everything adds up over micro-batches and ranks.

    loss           scalar with gradient, already divided by the step's denominator
    policy_loss    scalar, its policy part; kl_loss   scalar, its KL part (0 without one); both detached
    gate, advantages   [N], as used
    trust_region   for `trust_region_metrics`;  correction   for `correction_metrics`, None without behavior_logprobs
    """

    loss: Tensor
    policy_loss: Tensor
    kl_loss: Tensor
    gate: Tensor
    advantages: Tensor
    trust_region: Totals
    correction: Totals | None


def micro_batch_objective(config: AlgorithmConfig, tokens: TokenBatch, denominator: float) -> Objective:
    """Loss and statistics of one micro-batch; `denominator` as in `aggregate`.

    Raises ValueError where a tensor that the configuration needs is missing.
    """
    correction = _correction(config, tokens)
    loss = _loss(config, tokens, TokenLogprobs(tokens.logprobs, tokens.entropy), correction, denominator)
    return Objective(
        loss=loss.total,
        policy_loss=loss.policy.detach(),
        kl_loss=loss.kl.detach(),
        gate=loss.gate,
        advantages=loss.advantages,
        trust_region=trust_region_totals(
            config.loss, tokens.logprobs, tokens.old_logprobs, loss.advantages, loss.gate, tokens.entropy
        ),
        correction=None if correction is None else correction.totals,
    )


def loss_by_parts(config: AlgorithmConfig, tokens: SampledTokens, denominator: float) -> LossShare:
    """The loss of `micro_batch_objective` over some of the tokens, where config.loss is separable.

    Raises ValueError as `micro_batch_objective` does.
    """
    correction = _correction(config, tokens)
    return lambda part, current: _loss(config, tokens, current, correction, denominator, part).total


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loss:
    total: Tensor
    policy: Tensor
    kl: Tensor
    gate: Tensor
    advantages: Tensor


def _correction(config: AlgorithmConfig, tokens: SampledTokens) -> Correction | None:
    if tokens.behavior_logprobs is not None:
        return correction_weights(config.correction, tokens.old_logprobs, tokens.behavior_logprobs, tokens.sequence_ids)
    if config.correction.kind != "none":
        raise ValueError(f"correction {config.correction.kind} needs behavior_logprobs")
    return None


def _loss(
    config: AlgorithmConfig,
    tokens: SampledTokens,
    current: TokenLogprobs,
    correction: Correction | None,
    denominator: float,
    part: slice | None = None,
) -> _Loss:
    """Over the tokens `part`, all where None; `current` holds their values, [n]."""
    chosen = slice(None) if part is None else part
    advantages = tokens.advantages[chosen]
    if config.advantage.entropy is not None:
        advantages = entropy_advantages(config.advantage.entropy, advantages, current.entropy)
    policy = token_loss(
        config.loss, current.logprobs, tokens.old_logprobs[chosen], advantages, tokens.sequence_ids[chosen]
    )
    values = policy.values if correction is None else policy.values * correction.weights[chosen]
    policy_loss = aggregate(values, tokens.sequence_ids, config.aggregate, denominator, part)
    loss, kl_loss = policy_loss, torch.zeros_like(policy_loss)
    if config.kl.coefficient > 0 and config.kl.place == "loss":
        if tokens.ref_logprobs is None:
            raise ValueError("kl.coefficient is above 0 with place: loss, so ref_logprobs are needed")
        penalty = config.kl.coefficient * kl_penalty(
            current.logprobs.to(values.dtype), tokens.ref_logprobs[chosen].to(values.dtype), config.kl.estimator
        )
        kl_loss = aggregate(penalty, tokens.sequence_ids, config.aggregate, denominator, part)
        loss = loss + kl_loss
    if config.entropy_bonus > 0:
        bonus = config.entropy_bonus * current.entropy.to(values.dtype)
        loss = loss - aggregate(bonus, tokens.sequence_ids, config.aggregate, denominator, part)
    return _Loss(total=loss, policy=policy_loss, kl=kl_loss, gate=policy.gate, advantages=advantages)
