"""The controller process: the training loop and everything that it drives.

controller     the loop: take a batch, update, publish, evaluate, save
session        what the loop works on until it goes back to a checkpoint
group_stream   sends groups to the rollout pool and hands over batches
open_groups    the set of groups that no batch has taken
evaluator      scores on held-out problems, concurrent with training
recording      records steps for `maspo-dist replay`
step_metrics   metrics of a step's groups
samples        rows of samples.jsonl
run_services   live status, and requests to scale
watchdog       detects a stall and acts on it
"""
