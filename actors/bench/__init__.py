"""Benches: one module per `maspo-dist bench NAME`. Each yields `BenchLine`s, a measured value and its yardstick.

controller      the loop over fake workers and learners: throughput, memory, overlap of generation and update
rollout         a real rollout path against bare vLLM
weight_sync     a publish of weights by each transport, against a plain copy of the same bytes and gloo alone
checkpoint      save and load of the learner's state against torch.save and torch.load
learner         loss, packing, balance over ranks and log-probabilities against plain implementations
step            seconds per phase of a real run's steps, and the share that vLLM and the model need
learner_attention   attention of packed sequences against a dense mask
learner_update  a whole update of the learner engine against a plain padded loop
verifier        judged answers against bare math-verify
environments    trajectories that wait for tools against an engine without tools
math            the mathematics verifier against bare math-verify, layer by layer
reasoning_gym   whether every task of reasoning_gym accepts right answers and refuses nonsense
data            how fast a data set becomes prompts
run_memory      memory of each process of a long run
run_folder      status and report of a run of 20,000 steps: seconds and memory
plan            `maspo-dist plan` on this CPU: predicted seconds and memory against a run
gpu             a package: proves each GPU path on this machine, `maspo-dist bench gpu`
doubles         fakes for benches and tests
lines           the record of a measurement
memory          peak memory of processes
models          models of random weights
vllm_direct     bare vLLM, the yardstick of `rollout`
"""
