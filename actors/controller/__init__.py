"""The controller process: the training loop and everything that it drives.

controller     the loop: take a batch, update, publish, evaluate, save
session        what a run makes at its start, and again whenever it continues from a checkpoint
turns          turns of learners and engines on the same devices
group_stream   sends groups to the rollout pool and hands over batches
publisher      publishes the learner's weights to the workers
open_groups    the set of groups that no batch has taken
evaluator      scores on held-out problems, concurrent with training
recording      records steps for `maspo-dist replay`
step_rows      metrics of a step's groups, and samples of their responses
conversation_rows  what a step records of its conversations
run_services   the watchdog, the live status, and requests to scale
"""
