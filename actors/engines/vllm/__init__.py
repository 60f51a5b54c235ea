"""The rollout engine on vLLM.

engine   AsyncLLM as a RolloutEngine
weights  runs in vLLM's worker processes: loads weights, answers the proof of the LM head
plugin   runs first in each of vLLM's processes: ends it with its parent
"""
