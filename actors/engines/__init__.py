"""The engines that compute: the only modules that import vLLM and DeepSpeed.

registry   the rollout engines by name; a new engine is added here
abilities  what a rollout engine may offer beyond `RolloutEngine`
settings   settings and environment of a rollout engine
vllm       generation
deepspeed  training
"""
