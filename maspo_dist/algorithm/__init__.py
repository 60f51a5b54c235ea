"""What is optimised, and what is measured of it. Pure functions on tensors [N] of response tokens.

losses/         the token losses                         aggregate.py    token losses → scalar; totals that add up
objective.py    all terms, for one micro-batch           advantages.py   rewards and advantages of a group
correction.py   mismatch between engine and learner      regularisers.py KL to a reference, overlong penalty
logprobs.py     log-probabilities of a large vocabulary  schedule.py     the learning rate
diagnostics.py  inside the trust region                  extremes.py     tokens with extreme ratios
policy_loss.py  the loss on padded tensors
"""

from maspo_dist.algorithm.advantages import advantages_after_kl, entropy_advantages, group_advantages, score_group
from maspo_dist.algorithm.aggregate import Totals, aggregate
from maspo_dist.algorithm.correction import Correction, correction_metrics, correction_weights
from maspo_dist.algorithm.diagnostics import trust_region_metrics, trust_region_totals
from maspo_dist.algorithm.extremes import extreme_metrics, merge_extremes, ratio_extremes
from maspo_dist.algorithm.logprobs import token_logprobs
from maspo_dist.algorithm.losses.bapo import bapo_contributions, move_bounds
from maspo_dist.algorithm.losses.own import OwnLoss
from maspo_dist.algorithm.losses.registry import check_loss, token_loss
from maspo_dist.algorithm.losses.terms import TokenLoss, TokenTerms
from maspo_dist.algorithm.objective import Objective, SampledTokens, loss_by_parts, micro_batch_objective
from maspo_dist.algorithm.policy_loss import policy_loss
from maspo_dist.algorithm.regularisers import kl_penalty, overlong_penalty, response_kl

__all__ = [
    "Correction",
    "Objective",
    "OwnLoss",
    "SampledTokens",
    "TokenLoss",
    "TokenTerms",
    "Totals",
    "advantages_after_kl",
    "aggregate",
    "bapo_contributions",
    "check_loss",
    "correction_metrics",
    "correction_weights",
    "entropy_advantages",
    "extreme_metrics",
    "group_advantages",
    "kl_penalty",
    "loss_by_parts",
    "merge_extremes",
    "micro_batch_objective",
    "move_bounds",
    "overlong_penalty",
    "policy_loss",
    "ratio_extremes",
    "response_kl",
    "score_group",
    "token_logprobs",
    "token_loss",
    "trust_region_metrics",
    "trust_region_totals",
]
