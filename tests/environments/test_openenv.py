"""Environments of an OpenEnv server: rows of its prompts, conversations, and what happens when it fails.

The server is a double; `tests/doubles/openenv_server.py` speaks as openenv 0.10.0 was seen to speak.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from doubles.openenv_server import OpenEnvServer
from pydantic import ValidationError
from typer.testing import CliRunner

from actors.cli import app
from maspo_dist.config import EnvironmentConfig
from maspo_dist.environments.host import ForkedEnvironments
from maspo_dist.environments.openenv import server_rows
from maspo_dist.environments.protocol import Step, Task
from maspo_dist.environments.schemas import require_environment
from maspo_dist.errors import ConfigError, EnvironmentFailedError, EnvironmentLostError

GONE = "ws://127.0.0.1:9"


@pytest.fixture
def server() -> Iterator[OpenEnvServer]:
    with OpenEnvServer().serving() as serving:
        yield serving


@asynccontextmanager
async def host_of(server: OpenEnvServer, **keys: Any) -> AsyncIterator[ForkedEnvironments]:
    keys = {"kind": server.url, "observation_field": "prompt", "step_timeout_s": 20.0, **keys}
    host = ForkedEnvironments(EnvironmentConfig.model_validate(keys), quiet_s=60.0, start_timeout_s=60.0)
    try:
        await host.start()
        yield host
    finally:
        await host.aclose()


def task(server: OpenEnvServer, seed: int = 3) -> Task:
    [row] = server_rows(server.url, 1, seed, "prompt")
    return Task(prompt_id="p", reference=row["answer"], source="openenv", seed=1)


async def no_session_is_left(server: OpenEnvServer) -> None:
    async with asyncio.timeout(30):
        while server.sessions:  # noqa: ASYNC110 (the server's threads set no event)
            await asyncio.sleep(0.01)


def test_rows_hold_what_the_server_says_to_each_seed(server: OpenEnvServer) -> None:
    rows = list(server_rows(server.url, 3, 5, "prompt"))
    assert [json.loads(row["answer"])["seed"] for row in rows] == [5, 6, 7]
    assert all(row["problem"].startswith("Guess a number with the digit sum ") for row in rows)
    assert rows == list(server_rows(server.url, 3, 5, "prompt"))
    [whole] = server_rows(server.url, 1, 5, None)
    assert json.loads(whole["problem"]) == {"prompt": rows[0]["problem"], "tries": 1}


def test_rows_are_refused_in_one_sentence(server: OpenEnvServer) -> None:
    with pytest.raises(ConfigError, match=r"^URL is 'ws://127.0.0.1:9', where no OpenEnv server answers \(Connection"):
        list(server_rows(GONE, 1, 0, None))
    with pytest.raises(ConfigError, match=r"has no 'text' \(environment.observation_field\), but prompt, tries$"):
        list(server_rows(server.url, 1, 0, "text"))
    with pytest.raises(ConfigError, match=r"^URL: 'ws://host:port' is no address of a server"):
        list(server_rows("ws://host:port", 1, 0, None))
    server.answers = False
    with pytest.raises(ConfigError, match=r"where no OpenEnv server answers \(.*HTTP 503"):
        list(server_rows(server.url, 1, 0, None))
    server.answers, server.salt = True, None
    with pytest.raises(ConfigError, match=r"reset\(seed=4\) says different things to the same seed"):
        list(server_rows(server.url, 1, 4, "prompt"))


def test_the_command_writes_rows(server: OpenEnvServer, tmp_path: Path) -> None:
    path = tmp_path / "data/game.jsonl"
    done = CliRunner().invoke(
        app, ["openenv", f"{server.url}/", str(path), "--size", "2", "--observation-field", "prompt"]
    )
    assert done.output == f"2 problems: {path}\n"
    assert [json.loads(line) for line in path.read_text().splitlines()] == list(server_rows(server.url, 2, 0, "prompt"))


async def test_a_conversation_with_a_server(server: OpenEnvServer) -> None:
    async with host_of(server) as host:
        session = await host.open(task(server))
        low, high = 0, 999
        while not (step := await session.step(str((low + high) // 2))).done:
            assert step in (Step(observation="higher", reward=0.0), Step(observation="lower", reward=0.0))
            low, high = ((low + high) // 2 + 1, high) if step.observation == "higher" else (low, (low + high) // 2 - 1)
        assert step == Step(observation="right", done=True, reward=1.0)
        await session.close()
        await no_session_is_left(server)


async def test_a_full_server_is_asked_again(server: OpenEnvServer) -> None:
    server.most_sessions = 1
    row = task(server)
    async with host_of(server) as host:
        first = await host.open(row)
        second = asyncio.create_task(host.open(row))
        await asyncio.sleep(0.5)
        assert not second.done()
        await first.close()
        await (await second).close()


async def test_a_server_that_stays_full_is_named(server: OpenEnvServer) -> None:
    server.most_sessions = 1
    row = task(server)
    async with host_of(server, step_timeout_s=6.0) as host:
        first = await host.open(row)
        with pytest.raises(EnvironmentFailedError, match=r"slots are in use \(CAPACITY_REACHED\): let it open as"):
            await host.open(row)
        await first.close()


async def test_a_reset_that_no_longer_says_what_its_row_says_fails(server: OpenEnvServer) -> None:
    row = task(server)
    server.salt = 1
    async with host_of(server) as host:
        with pytest.raises(EnvironmentFailedError, match=r"reset\(seed=3\) no longer says what its row says"):
            await host.open(row)
        with pytest.raises(EnvironmentFailedError, match="the answer '42' holds no seed: write the rows with"):
            await host.open(Task(prompt_id="p", reference="42", source="openenv", seed=1))


@pytest.mark.parametrize(
    ("keys", "response", "sentence"),
    [
        ({}, "five", r"the server says: invalid literal: five \(EXECUTION_ERROR\)"),
        ({"action_field": "text"}, "5", r"Invalid message: message: Field required \(VALIDATION_ERROR\)"),
    ],
)
async def test_an_error_of_the_server_costs_its_conversation(
    server: OpenEnvServer, keys: dict[str, Any], response: str, sentence: str
) -> None:
    async with host_of(server, **keys) as host:
        session = await host.open(task(server))
        with pytest.raises(EnvironmentFailedError, match=sentence):
            await session.step(response)


async def test_text_that_the_action_cannot_hold_is_answered(server: OpenEnvServer) -> None:
    async with host_of(server) as host:
        session = await host.open(task(server))
        assert await session.step("") == Step(observation="message: String should have at least 1 character")
        assert (await session.step("5")).observation in ("higher", "lower", "right")
        await session.close()


async def test_conversations_with_a_server_that_hangs_up_are_lost_and_others_start(server: OpenEnvServer) -> None:
    async with host_of(server) as host:
        row = task(server)
        session = await host.open(row)
        server.hang_up()
        with pytest.raises(EnvironmentLostError, match=r"^ws://127.0.0.1:\d+: .*ConnectionClosed"):
            await session.step("5")
        await no_session_is_left(server)
        await (await host.open(row)).close()


async def test_a_server_that_does_not_answer_is_a_timeout_and_no_loss(server: OpenEnvServer) -> None:
    async with host_of(server, step_timeout_s=4.0) as host:
        session = await host.open(task(server))
        with pytest.raises(EnvironmentFailedError, match="step took longer than 4 s") as caught:
            await session.step("hang")
        assert caught.value.status == "timeout"


async def test_a_server_that_is_away_for_a_moment_is_waited_for(server: OpenEnvServer) -> None:
    async with host_of(server) as host:
        row = task(server)
        server.answers = False
        opening = asyncio.create_task(host.open(row))
        await asyncio.sleep(0.5)
        assert not opening.done()
        server.answers = True
        await (await opening).close()


def test_a_run_does_not_start_without_its_server() -> None:
    with pytest.raises(ConfigError, match=r"^environment.kind is 'ws://127.0.0.1:9', where no OpenEnv server answers"):
        require_environment(EnvironmentConfig(kind=GONE))


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"kind": "http://host:1"}, "must be tools, ws://host:port or python:module:Name, got 'http://host:1'"),
        ({"kind": "ws://"}, "'ws://' is no address of a server: write ws://host:port or wss://host"),
        ({"kind": "ws://host:99999"}, "'ws://host:99999' is no address of a server"),
        ({"kind": "ws://host:port"}, "'ws://host:port' is no address of a server"),
        ({"kind": "ws://[::1"}, "is no address of a server"),
        ({"kind": "ws://host:1/?token=a"}, "is no address of a server"),
        ({"kind": "python:my:Game", "action_field": "text"}, "so action_field has no effect: remove it"),
    ],
)
def test_a_mistyped_server_is_refused_in_one_sentence(keys: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        EnvironmentConfig.model_validate(keys)


def test_the_path_of_the_socket_may_be_written_or_not() -> None:
    kinds = ("wss://host", "wss://host/", "wss://host/ws", "wss://host/ws/")
    assert {EnvironmentConfig(kind=kind).kind for kind in kinds} == {"wss://host"}
