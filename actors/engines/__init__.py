"""The engines that compute: the only modules that import vLLM and DeepSpeed.

registry   the rollout engines by name; a new one is added here
settings   settings and environment of a rollout engine
vllm       generation
deepspeed  training
"""
