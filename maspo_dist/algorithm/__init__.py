"""What is optimised and what is seen of it. Pure functions on tensors [N] of response tokens.

terms.py        inputs and result of a token loss        loss.py          token_loss, for every kind
maspo.py        MASPO                                    baselines.py     clip, sapo, gspo, cispo, dac
bapo.py         BAPO and its step-wide bounds            aggregate.py     token losses → scalar
advantages.py   group-relative, entropy-shaped           correction.py    engine/learner mismatch
regularisers.py KL to a reference, overlong penalty      objective.py     all of it, for one micro-batch
diagnostics.py  inside the trust region                  extremes.py      tokens with extreme ratios
totals.py       statistics that add up                   sequences.py     per-response sums and means
"""

from maspo_dist.algorithm.advantages import entropy_advantages, group_advantages
from maspo_dist.algorithm.aggregate import aggregate
from maspo_dist.algorithm.correction import Correction, correction_metrics, correction_weights, empty_correction
from maspo_dist.algorithm.diagnostics import empty_trust_region, trust_region_metrics, trust_region_totals
from maspo_dist.algorithm.extremes import RatioExtremes, TokenExtreme, empty_extremes, ratio_extremes
from maspo_dist.algorithm.logprobs import token_logprobs
from maspo_dist.algorithm.losses.bapo import BapoBounds, bapo_contributions, select_bounds
from maspo_dist.algorithm.losses.registry import token_loss
from maspo_dist.algorithm.losses.terms import TokenLoss
from maspo_dist.algorithm.objective import (
    Objective,
    TokenBatch,
    loss_is_separable,
    micro_batch_objective,
    token_cotangents,
)
from maspo_dist.algorithm.regularisers import kl_penalty, overlong_penalty, response_kl
from maspo_dist.algorithm.totals import Totals

__all__ = [
    "BapoBounds",
    "Correction",
    "Objective",
    "RatioExtremes",
    "TokenBatch",
    "TokenExtreme",
    "TokenLoss",
    "Totals",
    "aggregate",
    "bapo_contributions",
    "correction_metrics",
    "correction_weights",
    "empty_correction",
    "empty_extremes",
    "empty_trust_region",
    "entropy_advantages",
    "group_advantages",
    "kl_penalty",
    "loss_is_separable",
    "micro_batch_objective",
    "overlong_penalty",
    "ratio_extremes",
    "response_kl",
    "select_bounds",
    "token_cotangents",
    "token_logprobs",
    "token_loss",
    "trust_region_metrics",
    "trust_region_totals",
]
