"""Environments and tools: what a response meets, between two turns of the model.

protocol      the contract: Task, Step, Environment; Session and EnvironmentHost, as the rollout worker sees them
registry      from `environment.kind` to what makes an environment
tools         the environment in which a turn calls tools; the tool `python`
calls         the calls in the text of a turn
openenv       environments of an OpenEnv server, and rows with their prompts
calculator    the tool of the demo
schemas       how tools are described to the model, and what `maspo-dist check` requires of tools
play          plays an environment twice, for `maspo-dist check`

host          sessions with processes, each call under a deadline
server_link   the connection to the process that forks them
fork_server   that process, and its keeper
process       the process of one trajectory
memory        the bound on its memory, and how it shows
messages      between a session and its process
"""
