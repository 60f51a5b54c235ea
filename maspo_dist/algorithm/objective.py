"""The whole objective of one micro-batch: what the learner differentiates and a replay recomputes.

    A'    = A + min(α·H, |A|/κ)                         where algorithm.advantage.entropy is set
    value = c · ℓ(logπ, logπ_old, A') + k · KL − b · H   token by token
    loss  = aggregate(value)

c the mismatch weight, k the KL coefficient (place: loss), b the entropy bonus.

But for gspo, whose ratio is a whole response's, the loss is a sum over tokens of terms in the token's
own logπ and H: `token_cotangents` gives its derivatives for some tokens before the others are known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maspo_dist.algorithm.advantages import entropy_advantages
from maspo_dist.algorithm.aggregate import aggregate
from maspo_dist.algorithm.correction import correction_weights
from maspo_dist.algorithm.diagnostics import trust_region_totals
from maspo_dist.algorithm.losses.registry import token_loss
from maspo_dist.algorithm.regularisers import kl_penalty
from maspo_dist.algorithm.totals import Totals
from maspo_dist.config import AlgorithmConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """Response tokens of a micro-batch, each [N]; N may be 0.

    logprobs            logπ, with gradient
    entropy             nats; with gradient only where the entropy bonus needs it
    old_logprobs        logπ_old
    advantages          one a token
    sequence_ids        integers, which response a token belongs to
    behavior_logprobs   of the rollout engine; needed where a correction is set
    ref_logprobs        of the reference policy; needed where kl.coefficient > 0 and kl.place is loss
    """

    logprobs: Tensor
    entropy: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    sequence_ids: Tensor
    behavior_logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None


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
    advantages = tokens.advantages
    if config.advantage.entropy is not None:
        advantages = entropy_advantages(config.advantage.entropy, advantages, tokens.entropy)
    policy = token_loss(config.loss, tokens.logprobs, tokens.old_logprobs, advantages, tokens.sequence_ids)
    values = policy.values
    correction = None
    if tokens.behavior_logprobs is not None:
        weighing = correction_weights(
            config.correction, tokens.old_logprobs, tokens.behavior_logprobs, tokens.sequence_ids
        )
        values, correction = values * weighing.weights, weighing.totals
    elif config.correction.kind != "none":
        raise ValueError(f"correction {config.correction.kind} needs behavior_logprobs")
    policy_loss = aggregate(values, tokens.sequence_ids, config.aggregate, denominator)
    loss, kl_loss = policy_loss, torch.zeros_like(policy_loss)
    if config.kl.coefficient > 0 and config.kl.place == "loss":
        if tokens.ref_logprobs is None:
            raise ValueError("kl.coefficient is above 0 with place: loss, so ref_logprobs are needed")
        penalty = config.kl.coefficient * kl_penalty(
            tokens.logprobs.to(values.dtype), tokens.ref_logprobs.to(values.dtype), config.kl.estimator
        )
        kl_loss = aggregate(penalty, tokens.sequence_ids, config.aggregate, denominator)
        loss = loss + kl_loss
    if config.entropy_bonus > 0:
        bonus = config.entropy_bonus * tokens.entropy.to(values.dtype)
        loss = loss - aggregate(bonus, tokens.sequence_ids, config.aggregate, denominator)
    return Objective(
        loss=loss,
        policy_loss=policy_loss.detach(),
        kl_loss=kl_loss.detach(),
        gate=policy.gate,
        advantages=advantages,
        trust_region=trust_region_totals(
            config.loss, tokens.logprobs, tokens.old_logprobs, advantages, policy.gate, tokens.entropy
        ),
        correction=correction,
    )


def token_cotangents(
    config: AlgorithmConfig,
    tokens: TokenBatch,
    denominator: float,
    part: slice,
    logprobs: Tensor,
    entropy: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """∂loss/∂logπ and ∂loss/∂H of the tokens `part`, from their own values [n], where the loss is separable.

    What `tokens` holds as logprobs and entropy stands in for the other tokens and does not matter; with
    `entropy_bonus` 0 the second is None.
    """
    current = tokens.logprobs.detach().clone()
    entropies = tokens.entropy.detach().clone()
    current[part], entropies[part] = logprobs, entropy
    has_bonus = config.entropy_bonus > 0
    with torch.enable_grad():
        current.requires_grad_()
        entropies.requires_grad_(has_bonus)
        whole = replace(tokens, logprobs=current, entropy=entropies)
        loss = micro_batch_objective(config, whole, denominator).loss
        by_both = torch.autograd.grad(loss, (current, entropies) if has_bonus else (current,))
    return by_both[0][part], by_both[1][part] if has_bonus else None
