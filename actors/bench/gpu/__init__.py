"""`maspo-dist bench gpu`: proves each GPU path on the machine at hand, one JSON line per check.

run              starts the checks, each in a process with a deadline; sums up
child            that process
checks           the checks by name
result           figures, limits and verdict of a check
setting          device and scale
workplace        device, folder and model of one process
model            model folders with random weights
pair             engine and learner of one model
responses        random responses for the learner
cost             seconds and peak memory

stack            versions, driver, and the devices that torch, Ray and vLLM see
attention        packed attention against a dense mask and float32
head             the log-probability head against its matrix products
step             an update of the learner against the GPU's peak and the planned memory
engine           tokens per second of an engine
logprobs         engine against learner, on sampled responses
publish          weights from learner to engine, with requests in flight
adapter          an engine that gets adapters (LoRA) alone
ipc              weights that another process reads in this process's memory of the GPU
zero             ZeRO 2 and 3, and shared sequences, on two ranks against one rank
collective       broadcasts of weights to another GPU
tensor_parallel  a publish to an engine on two GPUs
whole_run        runs of configs/gpu_smoke.yaml, a rollout worker killed; also in turns on one GPU
"""
