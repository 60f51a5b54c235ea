"""The training engine on DeepSpeed, the only code that imports it.

engine              one rank: update, probes, export of weights, checkpoints
policy              the model with its log-probability head
partition           the division of a model among the ranks under ZeRO-3
lora                adapters beside frozen linear layers
weights             the weights that engines get
offload             what only an optimizer step needs, to the host and back
kl_in_reward        the KL penalty in the reward
attention           attention of packed sequences
sequence_parallel   ranks that share the tokens of sequences
micro_batch         a packed micro-batch on the device
statistics          metrics of a batch, over micro-batches and ranks
config              DeepSpeed's import and configuration
state               what a checkpoint holds, read under any layout
state_loading       a checkpoint into an engine of another layout
shared_writes       writes between collectives
random_state        the random generators of a process
"""
