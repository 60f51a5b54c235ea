"""The verifier: one Ray actor that owns the pool of processes that score responses.

actor    the actor around `maspo_dist.reward.VerifierPool`
process  starts, watches and ends the actor
client   scores one worker's responses by calls to the actor
"""
