"""How long a sequence an engine has room for, and which tags it keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.engines.settings import evaluation_engine, training_engine
from actors.weights.probes import longest_probe
from maspo_dist.config import EvaluationConfig, load_config

SMOKE = Path(__file__).parents[2] / "configs" / "local_smoke.yaml"


@pytest.mark.parametrize(
    ("overrides", "tokens"),
    [
        ([], 32 + 40),
        (["evaluation.max_response_tokens=90"], 32 + 90),
        (["evaluation.max_response_tokens=20"], 32 + 40),
        (["evaluation.max_response_tokens=90", "evaluation.every=null"], 32 + 40),
    ],
)
def test_an_engine_has_room_for_the_longest_sequence_and_no_token_more(overrides: list[str], tokens: int) -> None:
    """A run that uses all of the model's context would otherwise not start."""
    config = load_config(SMOKE, overrides)
    assert training_engine(config).max_model_len == tokens
    assert longest_probe(config) < tokens, "an engine samples a token after each probe"


def test_training_and_evaluation_keep_the_reasoning_tags_of_the_configuration() -> None:
    reward = {"reasoning_tags": {"[PLAN]": "[/PLAN]"}}
    config = load_config(SMOKE, ["reward.reasoning_tags={'[PLAN]': '[/PLAN]'}"])
    evaluation = EvaluationConfig.model_validate(
        {"model": config.model, "data": {"sets": {"a": "a.jsonl"}}, "reward": reward}
    )
    for settings in (training_engine(config), evaluation_engine(evaluation, 8)):
        assert settings.reasoning_tags == ("[PLAN]", "[/PLAN]")
