"""What differs between the configuration of a checkpoint and the one that resumes it, and what of it matters.

A difference matters when the run would go on training something else: another model, other data, another
objective or another optimizer. Where and how fast it is computed does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from maspo_dist.config.sections import TrainConfig

Effect = Literal["meaning", "harmless"]

#: By key; a section's entry holds for everything in it that has no entry of its own.
EFFECTS: Mapping[str, Effect] = {
    "run.name": "harmless",
    "run.dir": "harmless",
    "run.seed": "meaning",
    "run.max_steps": "harmless",
    "model.path": "meaning",
    "model.dtype": "meaning",
    "model.device": "harmless",
    "model.attention": "harmless",
    "model.trust_remote_code": "harmless",
    "data": "meaning",
    "data.eval": "harmless",
    "rollout.workers": "harmless",
    "rollout.tensor_parallel": "harmless",
    "rollout.threads": "harmless",
    "rollout.group_size": "meaning",
    "rollout.prompts_per_step": "meaning",
    "rollout.max_response_tokens": "meaning",
    "rollout.temperature": "meaning",
    "rollout.top_p": "meaning",
    "rollout.top_k": "meaning",
    "rollout.repetition_penalty": "meaning",
    "rollout.allow_biased_sampling": "harmless",
    "rollout.in_flight_updates": "meaning",
    "rollout.batch_order": "meaning",
    "rollout.over_sampling": "harmless",
    "rollout.straggler": "meaning",
    "rollout.max_attempts": "harmless",
    "rollout.engine": "harmless",
    "reward": "harmless",
    "reward.verifiers": "meaning",
    "reward.default": "meaning",
    "reward.extraction": "meaning",
    "algorithm": "meaning",
    "algorithm.allow_inert_trust_region": "harmless",
    "learner.ranks": "harmless",
    "learner.zero_stage": "harmless",
    "learner.micro_batch_tokens": "harmless",
    "learner.lr": "meaning",
    "learner.betas": "meaning",
    "learner.eps": "meaning",
    "learner.weight_decay": "meaning",
    "learner.schedule": "meaning",
    "learner.warmup_steps": "meaning",
    "learner.max_grad_norm": "meaning",
    "learner.gradient_checkpointing": "harmless",
    "learner.offload_optimizer": "harmless",
    "learner.offload_parameters": "harmless",
    "learner.threads": "harmless",
    "learner.deepspeed": "meaning",
    "learner.deepspeed.zero_optimization": "harmless",
    "sync": "harmless",
    "checkpoint": "harmless",
    "evaluation": "harmless",
    "logging": "harmless",
    "cluster": "harmless",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigDifference:
    """One key and its two values, None where a side does not have it; `matters` as said at the top."""

    key: str
    before: Any
    now: Any
    matters: bool

    def __str__(self) -> str:
        return f"{self.key} was {_shown(self.before)}, is {_shown(self.now)}"


def config_differences(before_yaml: str, now: TrainConfig) -> list[ConfigDifference]:
    """Every key whose value differs, those that matter first, then in the order of the configuration.

    `before_yaml` is what dump_config wrote, perhaps in another version: keys that it knows and this one does
    not, or the other way round, count as differences, unless they hold this version's default.
    """
    before, present = _flat(_completed(yaml.safe_load(before_yaml))), _flat(now.model_dump(mode="json"))
    keys = [*present, *(key for key in before if key not in present)]
    differences = [
        ConfigDifference(key=key, before=before.get(key), now=present.get(key), matters=_matters(key, now))
        for key in keys
        if before.get(key) != present.get(key)
    ]
    return sorted(differences, key=lambda difference: not difference.matters)


def effect_of(key: str) -> Effect:
    """By the longest entry that holds for `key`. Raises KeyError where there is none."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        effect = EFFECTS.get(".".join(parts[:length]))
        if effect is not None:
            return effect
    raise KeyError(key)


def _matters(key: str, now: TrainConfig) -> bool:
    if key == "run.max_steps":
        # A schedule that falls to zero at the last step is another one when the last step moves.
        return now.learner.schedule != "constant"
    try:
        return effect_of(key) == "meaning"
    except KeyError:
        # Of another version; what it did, nobody here knows.
        return True


def _completed(tree: Any) -> dict[str, Any]:
    """With the defaults of keys that came after it was written, where it is still valid."""
    try:
        return TrainConfig.model_validate(tree).model_dump(mode="json")
    except ValidationError:
        return tree if isinstance(tree, dict) else {}


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return dict(_leaves(tree, ()))


def _leaves(tree: Mapping[str, Any], above: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        path = (*above, str(name))
        if isinstance(value, dict) and value:
            yield from _leaves(value, path)
        else:
            # An empty section is the same as one that is not there.
            yield ".".join(path), value if value != {} else None


def _shown(value: Any) -> str:
    return "not set" if value is None else f"{value!r}" if isinstance(value, str) else f"{value}"
