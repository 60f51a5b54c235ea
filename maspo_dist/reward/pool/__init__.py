"""Processes that can be killed.

verifier_pool   what callers use: one queue, one verdict per sample; stops the run when too many have none
slot            the pool's threads: one per verifier process, or per remote verifier; what hung lately
process         start and end of one verifier process
worker          the program that the process runs
wire            the messages between pool and process
lifetime        ends a process with its parent, or with all its descendants
"""

from maspo_dist.reward.pool.verifier_pool import VerifierPool

__all__ = ["VerifierPool"]
