"""Environments and tools: what a response meets, between two turns of the model.

protocol      the contract: Task, Step, Environment; Session and EnvironmentHost, as the rollout worker sees them
registry      from `environment.kind` to what makes an environment
"""
