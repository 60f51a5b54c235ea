"""A resumed run says what changed, and which of it would train something else."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from maspo_dist.config import TrainConfig, config_differences, dump_config
from maspo_dist.config.differences import EFFECTS, effect_of

TREE: dict[str, Any] = {
    "run": {"name": "test", "max_steps": 3},
    "model": {"path": "some/model"},
    "data": {"train": ["train.jsonl"], "eval": {"held": "held.jsonl"}},
    "rollout": {"prompts_per_step": 8, "max_response_tokens": 16},
}


def config(**sections: dict[str, Any]) -> TrainConfig:
    return TrainConfig.model_validate({**TREE, **{name: TREE.get(name, {}) | keys for name, keys in sections.items()}})


def fields(model: type[BaseModel], above: str = "") -> Iterator[str]:
    """Every field down to those that are no section of their own."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from fields(annotation, f"{above}{name}.")
        else:
            yield above + name


def test_every_field_is_classified() -> None:
    unknown = []
    for key in fields(TrainConfig):
        try:
            effect_of(key)
        except KeyError:
            unknown.append(key)
    assert unknown == [], "say in maspo_dist/config/differences.py whether a change of these matters"


def test_every_entry_is_of_a_field_there_is() -> None:
    prefixes = {".".join(key.split(".")[:length]) for key in fields(TrainConfig) for length in (1, 2, 3)}
    assert set(EFFECTS) - prefixes == {"learner.deepspeed.zero_optimization"}


def test_the_same_configuration_has_no_difference() -> None:
    assert config_differences(dump_config(config()), config()) == []


@pytest.mark.parametrize(
    ("before", "now", "told", "matters"),
    [
        ({"learner": {"lr": 1e-6}}, {"learner": {"lr": 2e-6}}, "learner.lr was 1e-06, is 2e-06", True),
        ({"learner": {"ranks": 2}}, {"learner": {"ranks": 1}}, "learner.ranks was 2, is 1", False),
        ({"run": {"max_steps": 3}}, {"run": {"max_steps": 9}}, "run.max_steps was 3, is 9", False),
        (
            {"data": {"system_prompt": None}},
            {"data": {"system_prompt": "Be brief."}},
            "data.system_prompt was not set, is 'Be brief.'",
            True,
        ),
        ({"data": {}}, {"data": {"eval": {}}}, "data.eval.held was 'held.jsonl', is not set", False),
        (
            {"learner": {}},
            {"learner": {"deepspeed": {"zero_optimization": {"overlap_comm": True}}}},
            "learner.deepspeed.zero_optimization.overlap_comm was not set, is True",
            False,
        ),
        ({}, {"learner": {"deepspeed": {"prescale_gradients": True}}}, "prescale_gradients was not set, is True", True),
        ({}, {"rollout": {"engine": {"max_num_seqs": 8}}}, "rollout.engine.max_num_seqs was not set, is 8", False),
        ({}, {"reward": {"verifiers": {"code": "code"}}}, "reward.verifiers.code was not set, is 'code'", True),
        ({}, {"reward": {"timeout_s": 3.0}}, "reward.timeout_s was 10.0, is 3.0", False),
    ],
)
def test_a_difference_is_told_and_judged(before: dict[str, Any], now: dict[str, Any], told: str, matters: bool) -> None:
    differences = config_differences(dump_config(config(**before)), config(**now))
    assert [difference.matters for difference in differences] == [matters]
    assert told in str(differences[0])


def test_another_loss_differs_in_its_kind_and_its_settings_and_comes_first() -> None:
    now = config(algorithm={"loss": {"kind": "gspo"}}, learner={"ranks": 4})
    keys = [difference.key for difference in config_differences(dump_config(config()), now)]
    assert keys[0] == "algorithm.loss.kind"
    assert {"algorithm.loss.sigma_base", "algorithm.loss.epsilon_high"} <= set(keys)
    assert keys[-1] == "learner.ranks"


def test_the_last_step_matters_to_a_schedule_that_ends_there() -> None:
    schedule = {"learner": {"schedule": "cosine"}}
    (difference,) = config_differences(dump_config(config(**schedule)), config(run={"max_steps": 9}, **schedule))
    assert difference.matters


def test_a_key_that_came_later_is_no_difference_at_its_default() -> None:
    tree = yaml.safe_load(dump_config(config()))
    del tree["learner"]["max_grad_norm"]
    assert config_differences(yaml.safe_dump(tree), config()) == []
    (difference,) = config_differences(yaml.safe_dump(tree), config(learner={"max_grad_norm": 0.5}))
    assert str(difference) == "learner.max_grad_norm was 1.0, is 0.5"


def test_a_key_of_another_version_matters() -> None:
    tree = yaml.safe_load(dump_config(config()))
    tree["algorithm"]["novelty"] = 3
    (difference,) = config_differences(yaml.safe_dump(tree), config())
    assert (difference.key, difference.before, difference.matters) == ("algorithm.novelty", 3, True)
