"""The rollout engine on vLLM.

engine   AsyncLLM as a RolloutEngine
weights  runs in vLLM's worker processes: loads weights
experts  lets an update pack the weights of experts again
samples  runs in vLLM's worker processes: keeps what proofs compare
proofs   runs in vLLM's worker processes: reads back what they compute with
plugin   runs first in each of vLLM's processes: ends it with its parent, and filters its log
readings how values that were read back compare with the published values
adapter  runs in vLLM's worker processes: holds the adapter (LoRA) of the policy
platform on which kind of device vLLM runs
figures  keeps five of its statistics
arguments    names of its engine arguments, without an import of vLLM
log_filter   what vLLM logs at every publish
"""
