"""The token losses: one file per loss, its formula in the docstring beside the code.

maspo.py   MASPO                            clip.py    PPO and GRPO clipping
sapo.py    SAPO                             gspo.py    GSPO
cispo.py   CISPO                            dac.py     Dynamic Adaptive Clipping
bapo.py    BAPO                             dppo.py    DPPO
terms.py   inputs and result of a loss      own.py     the contract of a loss of your own
registry.py   token_loss, and which function computes which loss

To add a loss: its parameters in maspo_dist/config/losses.py, its function in a file here, one line in registry.py.
"""
