"""Rewards: verifiers, and the pool of killable processes that runs them.

    answers, numbers, relations, math, …  mathematical answers
    matching, json_fields, code, …        other verifiers, one a module
    pool, slot, process, worker, wire     processes with deadlines

Importing this package is light: verifiers' own dependencies load where a verifier is built.
"""

from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.reward.math.scorer import verify_math
from maspo_dist.reward.pool.slot import ProcessDeath
from maspo_dist.reward.pool.verifier_pool import VerifierPool
from maspo_dist.reward.sample import Sample

__all__ = ["ProcessDeath", "Sample", "VerifierConfig", "VerifierPool", "verify_math"]
