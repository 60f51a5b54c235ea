"""A resumed run says what changed, and which of it would train something else."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from maspo_dist.config import EvaluationConfig, TrainConfig, dump_config, resume_changes
from maspo_dist.config.keys import effect_of, flatten, section_types

TREE: dict[str, Any] = {
    "run": {"name": "test", "max_steps": 3},
    "model": {"path": "some/model"},
    "data": {"train": ["train.jsonl"], "eval": {"held": "held.jsonl"}},
    "rollout": {"prompts_per_step": 8, "max_response_tokens": 16},
}


def config(**sections: dict[str, Any]) -> TrainConfig:
    return TrainConfig.model_validate({**TREE, **{name: TREE.get(name, {}) | keys for name, keys in sections.items()}})


def keys_of(model: type[BaseModel], above: str = "") -> Iterator[str]:
    """Every key that holds no section of its own, in every kind of loss."""
    for name, field in model.model_fields.items():
        sections = section_types(field.annotation)
        for section in sections:
            yield from keys_of(section, f"{above}{name}.")
        if not sections:
            yield above + name


@pytest.mark.parametrize("root", [TrainConfig, EvaluationConfig])
def test_every_key_states_what_a_change_of_it_changes(root: type[BaseModel]) -> None:
    silent = [key for key in keys_of(root) if effect_of(root, key) is None]
    assert silent == [], "state the effect of these in their type, such as Meaning[float]"


def test_a_key_of_no_section_has_no_effect() -> None:
    assert effect_of(TrainConfig, "novelty.weight") is None
    assert effect_of(TrainConfig, "learner.novelty") is None


def test_few_keys_may_differ_in_a_comparison_or_an_evaluation() -> None:
    free = {key for key in keys_of(TrainConfig) if (effect := effect_of(TrainConfig, key)) and not effect.compare}
    assert {key.split(".")[0] for key in free - {"run.dir"}} == {"checkpoint", "logging", "cluster"}
    unscored = {
        key for key in keys_of(EvaluationConfig) if (effect := effect_of(EvaluationConfig, key)) and not effect.scores
    }
    assert {key for key in unscored if not key.startswith("cluster.")} == {
        "model.path", "data.sets", "rollout.workers", "rollout.samples_in_flight", "reward.workers",
        "environment.processes",
    }  # fmt: skip


def test_a_tree_is_flattened_to_dotted_keys() -> None:
    tree = {"a": {"b": 1, "c": {}}, "d": [2], "e": {"f": {"g": None}}}
    assert dict(flatten(tree)) == {"a.b": 1, "a.c": {}, "d": [2], "e.f.g": None}


def test_the_same_configuration_has_no_change() -> None:
    assert resume_changes(dump_config(config()), config()) == ([], [])


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
def test_a_change_is_described_and_judged(
    before: dict[str, Any], now: dict[str, Any], told: str, matters: bool
) -> None:
    meaning, others = resume_changes(dump_config(config(**before)), config(**now))
    (change,) = meaning if matters else others
    assert [*meaning, *others] == [change]
    assert told in str(change)


def test_another_loss_changes_its_kind_and_its_parameters_and_matters() -> None:
    now = config(algorithm={"loss": {"kind": "gspo"}}, learner={"ranks": 4})
    meaning, others = resume_changes(dump_config(config()), now)
    keys = [change.key for change in meaning]
    assert keys[0] == "algorithm.loss.kind"
    assert {"algorithm.loss.sigma_base", "algorithm.loss.epsilon_high"} <= set(keys)
    assert [change.key for change in others] == ["learner.ranks"]


def test_the_last_step_matters_to_a_schedule_that_ends_there() -> None:
    schedule = {"learner": {"schedule": "cosine"}}
    ((change,), _) = resume_changes(dump_config(config(**schedule)), config(run={"max_steps": 9}, **schedule))
    assert change.key == "run.max_steps"


def test_a_key_that_was_added_later_is_no_change_at_its_default() -> None:
    tree = yaml.safe_load(dump_config(config()))
    del tree["learner"]["max_grad_norm"]
    assert resume_changes(yaml.safe_dump(tree), config()) == ([], [])
    ((change,), _) = resume_changes(yaml.safe_dump(tree), config(learner={"max_grad_norm": 0.5}))
    assert str(change) == "learner.max_grad_norm was 1.0, is 0.5"


def test_a_key_of_another_version_matters() -> None:
    tree = yaml.safe_load(dump_config(config()))
    tree["algorithm"]["novelty"] = 3
    ((change,), _) = resume_changes(yaml.safe_dump(tree), config())
    assert (change.key, change.before) == ("algorithm.novelty", 3)
