"""The section `environment`: what answers a response that calls a tool or makes a move.

Without the section, a response is one turn.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from maspo_dist.config.extension import one_of
from maspo_dist.config.section import Capacity, Execution, Listed, Meaning, Section


class EnvironmentConfig(Section):
    """What a trajectory plays against: tools, or an environment of the user's own."""

    #: tools lets the model call `tools`; python:module:Name is a class of your own (`Environment` in
    #: maspo_dist/environments/protocol.py).
    kind: Meaning[Annotated[str, AfterValidator(one_of("tools"))]] = "tools"
    #: What the model may call: python (programs in the sandbox), or functions and classes of your own as
    #: python:module:name.
    tools: Meaning[Listed[Annotated[str, AfterValidator(one_of("python"))]]] = Field(default_factory=list)
    #: How the model writes a call. tags: <tool_call>{"name": …, "arguments": {…}}</tool_call>. calls: name(1, key=2),
    #: alone on a line.
    call_format: Meaning[Literal["tags", "calls"]] = "tags"
    #: Role of observations in the chat template; auto: tool where the template has this role, else user.
    role: Meaning[Literal["auto", "tool", "user"]] = "auto"
    #: Most turns of the model in one trajectory.
    max_turns: Meaning[int] = Field(8, ge=1)
    #: Longest turn in tokens; null: what is left of rollout.max_response_tokens.
    max_turn_tokens: Meaning[int | None] = Field(None, ge=1)
    #: Longest observation in tokens. A longer observation loses its middle; the mark in its place counts.
    max_observation_tokens: Meaning[int] = Field(1024, ge=16)
    #: Hard wall-clock deadline of one call of `reset` or `step`. A process that misses it is killed.
    step_timeout_s: Execution[float] = Field(30.0, gt=0)
    #: Memory by which the process of one trajectory may grow, and memory of one program of the python tool.
    memory_mb: Execution[int] = Field(512, ge=64)
    #: Most processes of a rollout worker, one per open trajectory; further trajectories wait before their first turn.
    processes: Capacity[int] = Field(256, ge=1)

    @model_validator(mode="after")
    def _tools_belong_to_their_kind(self) -> EnvironmentConfig:
        if self.kind == "tools" and not self.tools:
            raise ValueError("kind is tools, but tools is empty: name python or python:module:function in tools")
        if self.kind != "tools" and self.tools:
            raise ValueError(
                f"kind is {self.kind!r}, so the tools {self.tools} would never be called: remove them, or set kind to "
                "tools"
            )
        twice = [name for name, count in Counter(self.tools).items() if count > 1]
        if twice:
            raise ValueError(f"tools holds {twice[0]!r} twice: remove one")
        return self
