"""Decisions about groups while they flow from prompts to batches: pure functions and bookkeeping.

admission   how many groups may be open, and which groups make the next batch
selection   why a group with a result does not train
policy_age  the bound on policy age, checked last
ledger      how every group ended
failures    retries, restart budgets and stalls
seeds       seeds of sampling
"""
