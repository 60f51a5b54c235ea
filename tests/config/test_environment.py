"""The section `environment`: what is refused, in one sentence that names the key."""

from __future__ import annotations

from typing import Any

import pytest

from maspo_dist.config import TrainConfig, build_config
from maspo_dist.errors import ConfigError


def config(environment: dict[str, Any], engine: dict[str, Any] | None = None) -> TrainConfig:
    return build_config(
        TrainConfig,
        {
            "run": {"name": "test", "max_steps": 3},
            "model": {"path": "some/model"},
            "data": {"train": ["train.jsonl"]},
            "rollout": {"prompts_per_step": 8, "max_response_tokens": 64, "engine": engine or {}},
            "environment": environment,
        },
    )


def test_one_tool_is_enough() -> None:
    environment = config({"tools": "python"}).environment
    assert environment is not None
    assert (environment.kind, environment.tools, environment.call_format) == ("tools", ["python"], "tags")


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({}, "environment: kind is tools, but tools is empty: name python or python:module:function in tools"),
        ({"kind": "python:games:Wordle", "tools": ["python"]}, "so the tools ['python'] would never be called: remove"),
        ({"tools": ["python", "python"]}, "environment: tools holds 'python' twice: remove one"),
        ({"tools": ["search"]}, "environment.tools.0: must be python or python:module:Name, got 'search'"),
        ({"kind": "wordle"}, "environment.kind: must be tools, ws://host:port or python:module:Name, got 'wordle'"),
        (
            {"tools": ["python"], "max_turn_tokens": 65},
            "environment.max_turn_tokens (65) is more than rollout.max_resp",
        ),
        ({"tools": ["python"], "turns": 3}, "environment.turns: no such key (value 3); did you mean max_turns?"),
    ],
)
def test_what_cannot_run_is_refused_in_one_sentence(environment: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(environment)
    assert sentence in str(caught.value)


def test_an_environment_needs_the_prefix_cache() -> None:
    with pytest.raises(ConfigError, match=r"enable_prefix_caching is false, but an environment is set: .*remove"):
        config({"tools": ["python"]}, {"enable_prefix_caching": False})
    assert config({"tools": ["python"]}, {"enable_prefix_caching": True}).environment is not None
