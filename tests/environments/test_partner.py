"""A worker converses with real processes of environments, by the tokenizer of its model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from doubles.untrained_demo import save_untrained_demo

from actors.bench.doubles import make_config
from actors.rollout.conversation import partner_of
from maspo_dist.config import TrainConfig
from maspo_dist.environments.protocol import Task
from maspo_dist.errors import ConfigError, ModelError
from maspo_dist.planning.environment import continuation_notes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained_demo(tmp_path_factory.mktemp("partner") / "model")


def config(model: Path, **sections: dict[str, Any]) -> TrainConfig:
    environment = {"kind": "python:rollout_adder:Adder"}
    return make_config(model={"path": str(model), "dtype": "float32"}, environment=environment, **sections)


async def test_the_host_and_the_template_of_the_model_are_joined(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rollout_adder.py").write_text(ADDER)
    monkeypatch.syspath_prepend(str(tmp_path))
    partner = await partner_of(config(model))
    assert partner is not None
    try:
        session = await partner.host.open(Task(prompt_id="p", reference="3", source="s", seed=0))
        steps = [await session.step(said) for said in ("4", "5")]
        await session.close()
    finally:
        await partner.host.aclose()
    assert [step.observation for step in steps] == ["7", "12"]
    assert partner.continuation.said(partner.continuation.heard("12").token_ids.tolist()) == "<|user|>12<|assistant|>"


ADDER = """
from maspo_dist.environments.protocol import Step


class Adder:
    def reset(self, task):
        self.total = int(task.reference)

    def step(self, response):
        self.total += int(response)
        return Step(observation=str(self.total))
"""


async def test_without_an_environment_there_is_no_partner() -> None:
    assert await partner_of(make_config()) is None
    assert continuation_notes(make_config()) == []


def test_the_template_is_checked_before_anything_starts(model: Path, tmp_path: Path) -> None:
    assert continuation_notes(config(model)) == []
    with pytest.raises(ConfigError, match=r"^data\.template is 'none', but an environment is set.* to chat$"):
        continuation_notes(config(model, data={"train": ["-"], "template": "none"}))
    other = save_untrained_demo(tmp_path / "model")
    template = other / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|end|>", " <|end|>"))
    with pytest.raises(ModelError, match=r"^environment\.role auto: the chat template of .* use a model with another"):
        continuation_notes(config(other))
