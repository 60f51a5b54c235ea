"""Rewards: verifiers, and the pool of processes that runs them.

sample      what is scored, and the Protocol of what scores it
registry    from the text that names a reward to its verifier
math/       mathematical answers
code/       programs, tested in a sandbox
verifiers/  all other verifiers
pool/       verifier processes that can be killed
unverifiable  ends a run that leaves too many samples without a verdict
rescore     scores the samples of a finished run again

Importing this package is light: what a verifier needs is imported when the verifier is made.
"""

from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.reward.math.verifier import verify_math
from maspo_dist.reward.pool.slot import ProcessDeath
from maspo_dist.reward.pool.verifier_pool import VerifierPool
from maspo_dist.reward.sample import Sample, Verifier
from maspo_dist.types import Verdict

__all__ = ["ProcessDeath", "Sample", "Verdict", "Verifier", "VerifierConfig", "VerifierPool", "verify_math"]
