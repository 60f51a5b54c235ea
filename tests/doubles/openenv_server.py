"""A server that speaks OpenEnv's protocol, as openenv 0.10.0 does, with a game in each session."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve


class OpenEnvServer:
    """Games of higher and lower. `sessions` are open now, `most_sessions` at most. With another `salt` reset says
    something else, and without one it says something else each time.
    """

    def __init__(self, most_sessions: int = 8) -> None:
        self.most_sessions = most_sessions
        self.sessions = 0
        self.salt: int | None = 0
        #: While it does not, it is as a proxy whose server is away.
        self.answers = True
        self._lock = threading.Lock()
        self._connections: list[ServerConnection] = []
        self._server: Server

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}"

    @contextmanager
    def serving(self) -> Iterator[OpenEnvServer]:
        with serve(self._play, "127.0.0.1", 0, process_request=self._refuse) as self._server:
            thread = threading.Thread(target=self._server.serve_forever)
            thread.start()
            try:
                yield self
            finally:
                self._server.shutdown()
                self.hang_up()
                thread.join()

    def hang_up(self) -> None:
        """Closes all connections."""
        for connection in self._connections:
            connection.close_socket()

    def _refuse(self, connection: ServerConnection, request: Request) -> Response | None:
        return None if self.answers else connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "away")

    def _play(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        assert connection.request.path == "/ws"
        with self._lock:
            is_full = self.sessions == self.most_sessions
            self.sessions += not is_full
            self._connections.append(connection)
        if is_full:
            connection.send(_error("All session slots are in use", "CAPACITY_REACHED"))
            return
        try:
            game = Game(self.salt)
            for message in connection:
                if "hang" not in message:
                    connection.send(game.answer(json.loads(message)))
        except ConnectionClosed:
            pass
        finally:
            with self._lock:
                self.sessions -= 1


class Game:
    def __init__(self, salt: int | None) -> None:
        self._salt = salt
        self._number = 0

    def answer(self, message: dict[str, Any]) -> str:
        data = message["data"]
        if message["type"] == "reset":
            seed = random.random() if self._salt is None else f"{data['seed']} {self._salt}"
            self._number = random.Random(seed).randrange(1000)
            return _observation(f"Guess a number with the digit sum {sum(map(int, str(self._number)))}.")
        if set(data) != {"message"}:
            errors = [{"loc": ["message"], "msg": "Field required", "type": "missing"}]
            return _error("Invalid message", "VALIDATION_ERROR", errors=errors)
        if not (guess := data["message"]):
            error = {"loc": ["message"], "msg": "String should have at least 1 character", "type": "string_too_short"}
            return _error("Invalid message", "VALIDATION_ERROR", errors=[error])
        if not guess.isdecimal():
            return _error(f"invalid literal: {guess}", "EXECUTION_ERROR")
        is_right = int(guess) == self._number
        said = "right" if is_right else "higher" if int(guess) < self._number else "lower"
        return _observation(said, reward=is_right, done=is_right)


def _observation(prompt: str, reward: bool | None = None, done: bool = False) -> str:
    data = {"observation": {"prompt": prompt, "tries": 1, "metadata": {}}, "reward": reward, "done": done}
    return json.dumps({"type": "observation", "data": data})


def _error(message: str, code: str, **details: Any) -> str:
    return json.dumps({"type": "error", "data": {"message": message, "code": code, **details}})
