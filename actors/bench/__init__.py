"""Benches: one module per `maspo-dist bench NAME`. Each yields `BenchLine`s, a measured value and its yardstick.

controller      the loop over fake workers and learners: throughput, memory, overlap of generation and update
rollout         a real rollout path against bare vLLM
weight_sync     a publish of weights against a plain copy of the same bytes
checkpoint      save and load of the learner's state against torch.save and torch.load
learner         loss, packing, balance over ranks and log-probabilities against plain implementations
verifier        judged answers against bare math-verify
reasoning_gym   whether every task of reasoning_gym accepts right answers and refuses nonsense
doubles         fakes for benches and tests
lines           the record of a measurement
models          models of random weights
vllm_direct     bare vLLM, the yardstick of `rollout`
"""
