"""The whole objective of one micro-batch: what the learner differentiates and a replay recomputes.

    A'    = A + min(α·H, |A|/κ)                         where algorithm.advantage.entropy is set
    value = c · ℓ(logπ, logπ_old, A') + k · KL − b · H   token by token
    loss  = aggregate(value)

c the mismatch weight, k the KL coefficient (place: loss), b the entropy bonus.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maspo_dist.algorithm.advantages import entropy_advantages
from maspo_dist.algorithm.aggregate import Totals, aggregate
from maspo_dist.algorithm.correction import Correction, correction_weights, weighs_tokens_alone
from maspo_dist.algorithm.logprobs import LossShare, TokenLogprobs
from maspo_dist.algorithm.losses.registry import token_loss
from maspo_dist.algorithm.regularisers import kl_penalty
from maspo_dist.config import AlgorithmConfig

_ALL = slice(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledTokens:
    """Response tokens of a micro-batch as they were sampled, each [N]; N may be 0.

    old_logprobs        logπ_old; None: the policy has not changed yet, so logπ_old is its own logπ
    advantages          of each token
    sequence_ids        integers, which response a token belongs to
    behavior_logprobs   of the rollout engine; needed where a correction is set
    ref_logprobs        of the reference policy; needed where kl.coefficient > 0 and kl.place is loss
    """

    old_logprobs: Tensor | None
    advantages: Tensor
    sequence_ids: Tensor
    behavior_logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One micro-batch's share; everything adds up over micro-batches and ranks.

    loss           scalar with gradient, already divided by the step's denominator
    policy_loss    scalar, its policy part; kl_loss   scalar, its KL part (0 without one)
    gate, advantages   [N], as used
    correction     for `correction_metrics`, None without behavior_logprobs
    """

    loss: Tensor
    policy_loss: Tensor
    kl_loss: Tensor
    gate: Tensor
    advantages: Tensor
    correction: Totals | None


def micro_batch_objective(
    config: AlgorithmConfig, tokens: SampledTokens, current: TokenLogprobs, denominator: float
) -> Objective:
    """The objective of `tokens` under the policy in training, whose values `current` are each [N].

    `denominator` as in `aggregate`. Raises ValueError where a tensor that the configuration needs is missing.
    """
    return _objective(config, tokens, current, denominator, _ALL)


def loss_by_parts(config: AlgorithmConfig, tokens: SampledTokens, denominator: float) -> LossShare | None:
    """The loss of `micro_batch_objective`, taken over some of the tokens at a time.

    None where it is not a sum over tokens: the loss is not separable, or a correction of whole responses waits for
    their logπ_old. Raises as `micro_batch_objective` does.
    """
    old = tokens.old_logprobs
    if not config.loss.is_separable or (old is None and not weighs_tokens_alone(config.correction)):
        return None
    whole = None if old is None else _correction(config, tokens, old, _ALL)
    return lambda part, current: _objective(config, tokens, current, denominator, part, whole).loss


def _correction(config: AlgorithmConfig, tokens: SampledTokens, old_logprobs: Tensor, part: slice) -> Correction | None:
    """Of the tokens `part`, whose logπ_old is `old_logprobs` [n]."""
    if tokens.behavior_logprobs is not None:
        behavior_logprobs, sequence_ids = tokens.behavior_logprobs[part], tokens.sequence_ids[part]
        return correction_weights(config.correction, old_logprobs, behavior_logprobs, sequence_ids)
    if config.correction.kind != "none":
        raise ValueError(f"correction {config.correction.kind} needs behavior_logprobs")
    return None


def _objective(
    config: AlgorithmConfig,
    tokens: SampledTokens,
    current: TokenLogprobs,
    denominator: float,
    part: slice,
    whole: Correction | None = None,
) -> Objective:
    """Over the tokens `part`, whose values are `current` [n]. `whole`: the correction of all tokens, where known."""
    old = current.logprobs.detach() if tokens.old_logprobs is None else tokens.old_logprobs[part]
    advantages = tokens.advantages[part]
    if config.advantage.entropy is not None:
        advantages = entropy_advantages(config.advantage.entropy, advantages, current.entropy)
    policy = token_loss(config.loss, current.logprobs, old, advantages, tokens.sequence_ids[part])
    values = policy.values
    correction = _correction(config, tokens, old, part) if whole is None else whole
    if correction is not None:
        values = values * (correction.weights if whole is None else whole.weights[part])
    policy_loss = aggregate(values, tokens.sequence_ids, config.aggregate, denominator, part)
    loss, kl_loss = policy_loss, torch.zeros_like(policy_loss)
    if config.kl.coefficient > 0 and config.kl.place == "loss":
        if tokens.ref_logprobs is None:
            raise ValueError("kl.coefficient is above 0 with place: loss, so ref_logprobs are needed")
        penalty = config.kl.coefficient * kl_penalty(
            current.logprobs.to(values.dtype), tokens.ref_logprobs[part].to(values.dtype), config.kl.estimator
        )
        kl_loss = aggregate(penalty, tokens.sequence_ids, config.aggregate, denominator, part)
        loss = loss + kl_loss
    if config.entropy_bonus > 0:
        bonus = config.entropy_bonus * current.entropy.to(values.dtype)
        loss = loss - aggregate(bonus, tokens.sequence_ids, config.aggregate, denominator, part)
    return Objective(
        loss=loss,
        policy_loss=policy_loss,
        kl_loss=kl_loss,
        gate=policy.gate,
        advantages=advantages,
        correction=None if correction is None else correction.totals,
    )
