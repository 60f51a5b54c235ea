"""Rules of the configuration, with the sentence that each prints."""

from __future__ import annotations

import re

import pytest
from doubles.loop import make_config
from pydantic import ValidationError

from maspo_dist.config import TrainConfig, build_config
from maspo_dist.config.compare import parse_seeds
from maspo_dist.errors import ConfigError


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        (
            {"algorithm": {"correction": "tis", "old_logprobs": "rollout"}},
            "correction is tis but old_logprobs is rollout, so the weight is exactly 1: set old_logprobs to recompute, "
            "or correction to none",
        ),
        (
            {"algorithm": {"kl": {"coefficient": 0.05, "estimator": "k1"}}},
            "coefficient is 0.05 and estimator is k1, whose gradient in the loss does not depend on the reference: "
            "set place to reward, or estimator to k2 or k3",
        ),
        ({"learner": {"offload_parameters": "cpu"}}, "offload_parameters needs zero_stage 3, got 2"),
        (
            {"learner": {"offload_optimizer": "cpu", "zero_stage": 0}},
            "offload_optimizer needs zero_stage 1, 2 or 3, got 0",
        ),
        (
            {"run": {"name": "../up"}},
            "'../up' must hold letters, digits, '.', '_' and '-' only, and not start with '.' or '-'",
        ),
        (
            {"reward": {"default": "0.5*math + 0.5*math"}},
            "verifier 'math' stands twice in '0.5*math + 0.5*math': add its weights up",
        ),
        ({"reward": {"default": f"1{'0' * 400}*math"}}, "the weight must be finite"),
        (
            {"reward": {"default": "https:score"}},
            "verifier 'https:score' is not a URL, such as https://host:8000/score",
        ),
        ({"rollout": {"workers": 0}}, "workers must be a number of at least 1 or {min: …, max: …}, got 0"),
        ({"rollout": {"workers": {"min": 3, "max": 2}}}, "max must be at least min (3), got 2"),
        (
            {"rollout": {"top_p": 0.9}},
            "top_p is 0.9, so that logprobs of the rollout engine and of the learner are of different distributions: "
            "set top_p to 1, or allow_biased_sampling: true",
        ),
        (
            {"rollout": {"over_sampling": 2.0}},
            "rollout.over_sampling (2) is more than the 1 batches that algorithm.max_policy_age (0) lets train: "
            "lower one or raise the other",
        ),
        ({"rollout": {"engine": {"seed": 1}}}, "engine.seed is set by run.seed; remove it here"),
        (
            {"rollout": {"engine": {"pipeline_parallel_size": 2}}},
            "engine.pipeline_parallel_size is set by rollout.tensor_parallel: an engine is split by that alone; remove "
            "it here",
        ),
        (
            {"rollout": {"engine": {"data_parallel_size": 2}}},
            "engine.data_parallel_size is set by rollout.workers: each worker has one engine; remove it here",
        ),
        (
            {"rollout": {"engine": {"distributed_executor_backend": "ray"}}},
            "engine.distributed_executor_backend is set by no other key: an engine's processes are on the node of its "
            "worker; remove it here",
        ),
        (
            {"rollout": {"engine": {"enable_sleep_mode": False}}},
            "engine.enable_sleep_mode is set by cluster.layout; remove it here",
        ),
        (
            {"data": {"template": "hello"}},
            "template must be chat, none, or text that holds {problem}, got 'hello'",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(sections: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(sentence)):
        make_config(**sections)


def test_k1_belongs_in_the_reward() -> None:
    kl = {"coefficient": 0.05, "estimator": "k1", "place": "reward"}
    assert make_config(algorithm={"kl": kl}).algorithm.kl.is_in_reward


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        (
            {"algorithm": {"max_policy_age": 2}},
            "algorithm.max_policy_age is 2, so that engines would generate during an update: set it to 0",
        ),
        (
            {"learner": {"ranks": 3}, "rollout": {"tensor_parallel": 2}},
            "rollout.tensor_parallel (2) does not divide learner.ranks (3), and an engine needs whole ranks: set ranks "
            "to a multiple of it",
        ),
        (
            {"learner": {"ranks": 4}, "rollout": {"tensor_parallel": 2}},
            "rollout.workers is not learner.ranks / rollout.tensor_parallel, and each engine shares the devices of its "
            "own ranks: set it to 2",
        ),
        (
            {"rollout": {"workers": {"min": 1, "max": 2}}},
            "rollout.workers is not learner.ranks / rollout.tensor_parallel, and each engine shares the devices of its "
            "own ranks: set it to 1",
        ),
        (
            {"learner": {"zero_stage": 1}},
            "learner.zero_stage is 1, under which DeepSpeed cannot leave a device: set it to 2 or 3",
        ),
        (
            {"learner": {"offload_optimizer": "cpu"}},
            "learner.offload_optimizer and learner.offload_parameters move to the host what the layout moves in turns: "
            "set both to none",
        ),
        (
            {"sync": {"transport": "collective"}},
            "sync.transport is collective, which needs a device for each of its processes: set it to auto",
        ),
        (
            {"sync": {"transport": "ipc"}, "learner": {"zero_stage": 3}},
            "sync.transport is ipc, by which engines read whole weights in the memory of each rank, but with "
            "learner.zero_stage 3 or learner.lora no rank holds them: set it to auto",
        ),
    ],
)
def test_what_keeps_engines_and_learners_from_taking_turns_is_refused(
    sections: dict[str, object], sentence: str
) -> None:
    whole = f"cluster.layout is colocated, but {sentence}, or layout to separate"
    with pytest.raises(ValidationError, match=re.escape(whole)):
        make_config(**sections, cluster={"layout": "colocated"})


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"learner": {}}, "learner.lora is not set, so there are no adapters: set it, or remove rollout.lora"),
        (
            {"learner": {"lora": {"rank": 600}}},
            "learner.lora.rank is 600 and vLLM holds adapters of rank 512 at most: lower it, or set rollout.lora to "
            "merged",
        ),
        (
            {"learner": {"lora": {}}, "cluster": {"layout": "colocated"}},
            "cluster.layout is colocated, where engines drop all weights while the learner trains and a publish must "
            "bring them back: set rollout.lora to merged, or layout to separate",
        ),
    ],
)
def test_what_keeps_adapters_from_travelling_alone_is_refused(sections: dict[str, object], sentence: str) -> None:
    whole = {"rollout": {"lora": "adapter", "prompts_per_step": 4, "max_response_tokens": 8}, **sections}
    with pytest.raises(ValidationError, match=re.escape(f"rollout.lora is adapter, but {sentence}")):
        make_config(**whole)


def test_a_key_that_is_required_is_named() -> None:
    with pytest.raises(ConfigError, match=r"run: required, but not set"):
        build_config(TrainConfig, {})


def test_an_override_that_is_no_yaml_is_quoted_with_its_fix() -> None:
    with pytest.raises(
        ConfigError, match=r"^override 'run\.name=\[a'.* cannot be read as YAML: .*; put the value in quotes$"
    ):
        build_config(TrainConfig, {}, ["run.name=[a"])


def test_a_seed_that_stands_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^a seed stands twice in '0-2,1'$"):
        parse_seeds("0-2,1")


def test_engines_on_devices_of_their_own_cannot_read_the_learners_memory() -> None:
    whole = (
        "sync.transport is ipc, but cluster.layout is separate, so that engines and learners share no device: set "
        "transport to auto, or layout to colocated"
    )
    with pytest.raises(ValidationError, match=re.escape(whole)):
        make_config(sync={"transport": "ipc"})
