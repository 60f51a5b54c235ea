"""The section `environment`: what answers a response that calls a tool or makes a move.

Without the section, a response is one turn.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from maspo_dist.config.extension import one_of
from maspo_dist.config.section import Capacity, Execution, Listed, Meaning, Section


def is_server(kind: str) -> bool:
    """Whether `kind` is meant as the address of an OpenEnv server."""
    return kind.startswith(("ws://", "wss://"))


def server_address(url: str) -> str:
    """`url` without the path of the WebSocket. Raises ValueError where it is no address of a server."""
    try:
        address = urlsplit(url)
        is_address = is_server(url) and address.hostname and address.port != 0
    except ValueError:  # a port that is none, or brackets without an address
        is_address = False
    if not is_address or address.query or address.fragment or address.username:
        raise ValueError(f"{url!r} is no address of a server: write ws://host:port or wss://host")
    return url.rstrip("/").removesuffix("/ws")


def _check_kind(kind: str) -> str:
    return server_address(kind) if is_server(kind) else one_of("tools", "ws://host:port")(kind)


class EnvironmentConfig(Section):
    """What a trajectory plays against: tools, or an environment of the user's own."""

    #: tools lets the model call `tools`; python:module:Name is a class of your own (`Environment` in
    #: maspo_dist/environments/protocol.py). ws://host:port, or wss://, is an OpenEnv server.
    kind: Meaning[Annotated[str, AfterValidator(_check_kind)]] = "tools"
    #: What the model may call: python (programs in the sandbox), or functions and classes of your own as
    #: python:module:name.
    tools: Meaning[Listed[Annotated[str, AfterValidator(one_of("python"))]]] = Field(default_factory=list)
    #: How the model writes a call. tags: <tool_call>{"name": …, "arguments": {…}}</tool_call>. calls: name(1, key=2),
    #: alone on a line.
    call_format: Meaning[Literal["tags", "calls"]] = "tags"
    #: With a server: field of the action that takes the text of a turn.
    action_field: Meaning[str] = "message"
    #: With a server: field of the observation that the model reads; null: all fields, as JSON.
    observation_field: Meaning[str | None] = None
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
    #: Memory by which the process of one trajectory may grow, and memory of one program of the python tool. The address
    #: space is counted, so each thread of a process counts with its stack.
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
        for key in ("action_field", "observation_field"):
            # A configuration that was written out names every key.
            if not is_server(self.kind) and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(
                    f"kind is {self.kind!r}, so {key} has no effect: remove it, or set kind to ws://host:port"
                )
        twice = [name for name, count in Counter(self.tools).items() if count > 1]
        if twice:
            raise ValueError(f"tools holds {twice[0]!r} twice: remove one")
        return self
