"""The token losses: one file per loss, its formula in the docstring beside the code.

maspo.py   MASPO                            clip.py    PPO and GRPO clipping
sapo.py    SAPO                             gspo.py    GSPO
cispo.py   CISPO                            dac.py     Dynamic Adaptive Clipping
bapo.py    BAPO
terms.py   inputs and result of a loss      registry.py   token_loss, and which function computes which loss
"""
