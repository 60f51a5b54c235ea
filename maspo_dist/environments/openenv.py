"""`environment.kind: ws://host:port`: environments of an OpenEnv server, over its WebSocket (protocol of openenv 0.10).

    ──► {"type": "reset", "data": {"seed": 7}}
    ──► {"type": "step", "data": {ACTION_FIELD: response}}
    ◄── {"type": "observation", "data": {"observation": {…}, "reward": 0.5, "done": false}}
    ◄── {"type": "error", "data": {"message": …, "code": …}}

A connection is a session of the server. What `reset` says is the prompt: `server_rows` writes it to a data file once.
The answer of a row is the seed, and a hash by which a trajectory notices a reset that says something else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import connect

from maspo_dist.config.environment import EnvironmentConfig, server_address
from maspo_dist.environments.protocol import Step, Task
from maspo_dist.errors import ConfigError, EnvironmentLostError
from maspo_dist.reward.sample import one_line

SOURCE = "openenv"
#: The server has no session left.
_FULL = "CAPACITY_REACHED"
#: Seconds between attempts to get a session: at first, and at most.
_FIRST_RETRY_S, _LAST_RETRY_S = 0.1, 2.0
#: Seconds for an answer, and for a session of a server that is full or away, while rows are written.
_WRITING_TIMEOUT_S, _WRITING_PATIENCE_S = 60.0, 10.0
#: Kinds of errors of pydantic that say that the action has another field.
_NAMES = frozenset({"missing", "extra_forbidden"})
#: Hosts that are reached without a proxy.
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


class Reference(BaseModel):
    """What the answer of a row holds. `sha256` is the hash of what `reset` says."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    seed: int
    sha256: str


class Message(BaseModel):
    """What the server sends."""

    type: str
    data: dict[str, Any]


class Answer(BaseModel):
    """The data of an observation message."""

    observation: dict[str, Any]
    reward: float | None = None
    done: bool = False


class ServerFullError(RuntimeError):
    """The server has no session left."""


class ActionRefusedError(RuntimeError):
    """The text of the model is no value that the action takes; nothing has happened."""


class ServerSession:
    """A session of the server at `url`. An answer takes `timeout_s` seconds at most; None leaves this to the caller.

    Its methods raise OSError or WebSocketException without a connection or an answer, RuntimeError where the server
    answers with an error, and ValueError where it answers something that OpenEnv does not.
    """

    def __init__(self, url: str, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        proxy: Literal[True] | None = None if urlsplit(url).hostname in _LOCAL else True
        self._open = contextlib.ExitStack()
        # The deadline of an answer finds a server that has gone, and an observation may be large.
        connecting = connect(f"{url}/ws", proxy=proxy, ping_interval=None, max_size=None)
        self._connection = self._open.enter_context(connecting)

    def reset(self, seed: int) -> Answer:
        return self._ask("reset", {"seed": seed})

    def step(self, action: Mapping[str, str]) -> Answer:
        return self._ask("step", action)

    def close(self) -> None:
        self._open.close()

    def _ask(self, kind: str, data: Mapping[str, object]) -> Answer:
        # A server that is full says so and closes the connection, before anything was asked.
        with contextlib.suppress(ConnectionClosed):
            self._connection.send(json.dumps({"type": kind, "data": data}))
        message = Message.model_validate_json(self._connection.recv(timeout=self._timeout_s))
        if message.type == "error":
            raise _error_of(message.data, data)
        return Answer.model_validate(message.data)


class OpenEnv:
    """Implements `Environment`. The end of its process ends its session."""

    def __init__(self, config: EnvironmentConfig) -> None:
        self._config = config
        self._session: ServerSession

    def reset(self, task: Task) -> None:
        """Raises ValueError when the row is not of this kind, or the server no longer says what it says."""
        try:
            reference = Reference.model_validate_json(task.reference)
        except ValidationError:
            raise ValueError(
                f"the answer {task.reference[:40]!r} holds no seed: write the rows with `maspo-dist openenv`"
            ) from None
        # The host kills what is late, which is then no lost connection.
        patience_s = self._config.step_timeout_s / 2
        self._session, answer = _reset_session(self._config.kind, reference.seed, None, patience_s)
        if _hash(_text(answer, self._config.observation_field)) != reference.sha256:
            raise ValueError(
                f"reset(seed={reference.seed}) no longer says what its row says: write the rows again with "
                "`maspo-dist openenv` and this environment.observation_field"
            )

    def step(self, response: str) -> Step:
        try:
            answer = self._session.step({self._config.action_field: response})
        except ActionRefusedError as error:
            return Step(observation=str(error))
        except (OSError, WebSocketException) as error:
            raise EnvironmentLostError(f"{self._config.kind}: {one_line(error)}") from None
        text = _text(answer, self._config.observation_field)
        return Step(observation=text, done=answer.done, reward=answer.reward)


def require_server(url: str, key: str) -> None:
    """Raises ConfigError naming `key`, which is `url`, unless an OpenEnv server answers there."""
    try:
        ServerSession(url, _WRITING_TIMEOUT_S).close()
    except (OSError, WebSocketException, ValueError) as error:
        raise ConfigError(
            f"{key} is {url!r}, where no OpenEnv server answers ({one_line(error)}): start it, or correct the address"
        ) from None


def server_rows(url: str, size: int, seed: int, observation_field: str | None) -> Iterator[dict[str, str]]:
    """Rows with problem, answer (a `Reference`) and source: what the server at `url` says to `size` seeds from `seed`.

    Raises ConfigError where it does not answer, says nothing, or says different things to the same seed.
    """
    try:
        url = server_address(url)
    except ValueError as error:
        raise ConfigError(f"URL: {error}") from None
    require_server(url, "URL")
    for number in range(seed, seed + size):
        text = _said_at_reset(url, number, observation_field)
        if number == seed and _said_at_reset(url, number, observation_field) != text:
            raise ConfigError(
                f"{url}: reset(seed={number}) says different things to the same seed: let the environment draw from "
                "its seed, or name a field that does with --observation-field; a row must fix the prompt"
            )
        if not text.strip():
            raise ConfigError(f"{url}: reset(seed={number}) says nothing: name another field with --observation-field")
        reference = Reference(seed=number, sha256=_hash(text))
        yield {"problem": text, "answer": reference.model_dump_json(), "source": SOURCE}


def _said_at_reset(url: str, seed: int, observation_field: str | None) -> str:
    try:
        # A session of its own, as each trajectory has.
        session, answer = _reset_session(url, seed, _WRITING_TIMEOUT_S, _WRITING_PATIENCE_S)
        session.close()
        return _text(answer, observation_field)
    except (OSError, WebSocketException, RuntimeError, ValueError) as error:
        raise ConfigError(f"{url}: reset(seed={seed}): {one_line(error)}") from None


def _reset_session(url: str, seed: int, timeout_s: float | None, patience_s: float) -> tuple[ServerSession, Answer]:
    """A new session, and what it says to `seed`.

    Tries again for `patience_s` seconds while the server is away, or full: it may not have closed the session of an
    earlier process yet. Raises as the methods of `ServerSession` do.
    """
    give_up_s, retry_s = time.monotonic() + patience_s, _FIRST_RETRY_S
    while True:
        try:
            session = ServerSession(url, timeout_s)
            try:
                return session, session.reset(seed)
            except BaseException:
                session.close()
                raise
        except (OSError, WebSocketException, ServerFullError):
            if time.monotonic() > give_up_s:
                raise
        # Hundreds of processes wait for the same server.
        time.sleep(retry_s * random.uniform(0.5, 1.0))
        retry_s = min(2 * retry_s, _LAST_RETRY_S)


def _error_of(data: Mapping[str, Any], asked: Mapping[str, object]) -> RuntimeError:
    errors = data.get("errors", ())
    details = "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in errors)
    # What the model wrote is refused, not the name of the field.
    if errors and all(
        error["loc"][:1] and error["loc"][0] in asked and error["type"] not in _NAMES for error in errors
    ):
        return ActionRefusedError(details)
    words = f"the server says: {': '.join(filter(None, [data.get('message'), details]))} ({data.get('code')})"
    if data.get("code") != _FULL:
        return RuntimeError(words)
    return ServerFullError(
        f"{words}: let it open as many as environment.processes times the workers (max_concurrent_envs, now "
        f"{data.get('max_sessions')})"
    )


def _text(answer: Answer, observation_field: str | None) -> str:
    fields = {name: value for name, value in answer.observation.items() if name != "metadata"}
    if observation_field is None:
        return json.dumps(fields, ensure_ascii=False)
    if observation_field not in fields:
        raise ValueError(
            f"the observation has no {observation_field!r} (environment.observation_field), but {', '.join(fields)}"
        )
    value = fields[observation_field]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
