"""What `maspo-dist plan` forecasts and advises."""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from maspo_dist.config import TrainConfig, load_config
from maspo_dist.errors import UserError
from maspo_dist.models.size import KNOWN_SIZES
from maspo_dist.planning.accelerators import ACCELERATORS
from maspo_dist.planning.forecast import Lengths, advice, forecast_step, publish_seconds, splits
from maspo_dist.planning.placement import engine_memory, learner_memory, plan_bundles
from maspo_dist.planning.plan import assumed_lengths, print_plan

GPUS = {gpu.name: gpu for gpu in ACCELERATORS}
SIZE = KNOWN_SIZES["deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"]
LENGTHS = Lengths(prompt_tokens=1024, response_tokens=4096)


def recipe(*overrides: str) -> TrainConfig:
    batch = ("run.max_steps=247", "rollout.prompts_per_step=1024", "algorithm.mini_batches=4")
    fixed = (*batch, "sync.transport=object_store")
    return load_config(Path("configs/r1_distill_qwen_7b_maspo.yaml"), (*fixed, *overrides))


def test_a_publish_is_forecast_for_the_transport_that_a_run_on_gpus_would_use() -> None:
    stored, chosen = (
        forecast_step(recipe(f"sync.transport={name}"), SIZE, GPUS["H100"], LENGTHS).publish_s
        for name in ("object_store", "auto")
    )
    assert stored == pytest.approx(0.3 + 2 * SIZE.parameters / 6e8)
    assert chosen == publish_seconds(recipe(), SIZE)["collective"] < stored


def test_the_update_is_the_arithmetic_of_its_forwards() -> None:
    forecast = forecast_step(recipe(), SIZE, GPUS["H100"], LENGTHS)
    # 8192 responses of 5120 tokens. A token costs two operations per weight and, for attention, 4 · layers · width ·
    # half of the tokens.
    per_forward = 8192 * 5120 * (2 * 7_615_616_512 + 28 * 3584 * 2 * 5120)
    # Forward, backward (two), checkpointing, and old logprobs of three of four mini-batches, on 8 GPUs at 40 %.
    assert forecast.update_s == pytest.approx(per_forward * 4.75 / (8 * 989e12 * 0.4))
    assert forecast.tokens == 8192 * 5120


@pytest.mark.parametrize(
    ("overrides", "share"),
    [
        (["learner.ranks=16"], 0.5),
        (["algorithm.old_logprobs=rollout"], 4 / 4.75),
        (["learner.gradient_checkpointing=false"], 3.75 / 4.75),
        (["algorithm.kl.coefficient=0.1"], 5.75 / 4.75),
        (["learner.lora.rank=8"], 3.75 / 4.75),
    ],
)
def test_the_update_follows_what_is_computed(overrides: list[str], share: float) -> None:
    whole = forecast_step(recipe(), SIZE, GPUS["H100"], LENGTHS).update_s
    assert forecast_step(recipe(*overrides), SIZE, GPUS["H100"], LENGTHS).update_s == pytest.approx(share * whole)


def test_generation_is_faster_with_more_workers_and_with_faster_memory() -> None:
    def generate_s(gpu: str, workers: int) -> float:
        config = recipe(f"rollout.workers={workers}")
        return forecast_step(config, SIZE, GPUS[gpu], LENGTHS).generate_s

    assert generate_s("H100", 8) < 0.6 * generate_s("H100", 4)
    assert generate_s("H200", 4) < generate_s("H100", 4) < generate_s("L40S", 4)


def test_an_a100_decodes_as_many_sequences_at_once_as_vllm_takes_there() -> None:
    def generate_s(gpu: str, *overrides: str) -> float:
        short = Lengths(prompt_tokens=128, response_tokens=256)
        config = recipe("data.max_prompt_tokens=256", "rollout.max_response_tokens=512", *overrides)
        return forecast_step(config, SIZE, GPUS[gpu], short).generate_s

    few, many = (f"rollout.engine.max_num_seqs={sequences}" for sequences in (256, 1024))
    assert generate_s("A100") == generate_s("A100", few) > generate_s("A100", many)
    assert generate_s("H100") == generate_s("H100", many) < generate_s("H100", few)


def test_generation_takes_at_least_the_time_of_the_longest_response_alone() -> None:
    config = recipe("rollout.prompts_per_step=2", "rollout.group_size=2", "algorithm.mini_batches=2")
    alone_s = 8192 * 2 * SIZE.parameters / (2 * 3.35e12)
    assert alone_s < forecast_step(config, SIZE, GPUS["H100"], LENGTHS).generate_s < 3 * alone_s


def test_an_overlapped_step_takes_as_long_as_its_slower_side() -> None:
    apart = forecast_step(recipe(), SIZE, GPUS["H100"], LENGTHS)
    overlapped = forecast_step(recipe("algorithm.max_policy_age=1"), SIZE, GPUS["H100"], LENGTHS)
    assert apart.step_s == apart.generate_s + apart.update_s + apart.publish_s
    assert overlapped.step_s == max(apart.generate_s, apart.update_s + apart.publish_s)


def test_turns_on_shared_gpus_cost_the_moves_of_the_optimizer_state() -> None:
    shared = recipe("cluster.layout=colocated", "rollout.workers=4", "learner.zero_stage=3")
    forecast = forecast_step(shared, SIZE, GPUS["H100"], LENGTHS)
    assert forecast.turns_s == pytest.approx(2 * 16 * SIZE.parameters / 8 / 2e10, rel=1e-6)
    assert forecast.step_s == forecast.generate_s + forecast.update_s + forecast.publish_s + forecast.turns_s
    assert not any("division" in sentence for sentence in advice(shared, SIZE, GPUS["H100"], LENGTHS))
    tight = recipe(
        "cluster.layout=colocated",
        "rollout.workers=4",
        "learner.zero_stage=3",
        "rollout.engine.gpu_memory_utilization=0.99",
    )
    assert "a publish takes 25.7 s by object_store" in list(advice(shared, SIZE, GPUS["H100"], LENGTHS))
    whole = recipe("cluster.layout=colocated", "rollout.workers=4", "learner.zero_stage=2")
    assert "a publish takes 25.7 s by object_store, 1.8 s by ipc" in list(advice(whole, SIZE, GPUS["H100"], LENGTHS))
    [said] = [sentence for sentence in advice(tight, SIZE, GPUS["H100"], LENGTHS) if "share" in sentence]
    assert said.endswith("raise learner.ranks, or lower rollout.engine.gpu_memory_utilization")
    tighter = tight.model_copy(update={"learner": tight.learner.model_copy(update={"zero_stage": 2})})
    [said] = [sentence for sentence in advice(tighter, SIZE, GPUS["H100"], LENGTHS) if "share" in sentence]
    assert said.endswith("set learner.zero_stage to 3, or lower rollout.engine.gpu_memory_utilization")


def test_the_fastest_division_of_the_gpus_stands_first() -> None:
    ways = splits(recipe(), SIZE, GPUS["H100"], LENGTHS)
    assert {(way.ranks, way.workers) for way in ways} >= {(8, 4), (10, 3), (6, 5)}
    assert all(way.ranks + 2 * way.workers == 16 for way in ways)
    assert [way.forecast.step_s for way in ways] == sorted(way.forecast.step_s for way in ways)


def test_the_parts_of_the_memory_add_up_to_what_check_prints() -> None:
    memory = learner_memory(recipe(), SIZE, "cuda")
    assert memory.total_bytes == plan_bundles(recipe(), SIZE, "cuda")[0].memory_bytes
    # Weights, float32 gradients, and moments with a master copy, over 8 ranks.
    assert memory.weights_bytes == 2 * SIZE.parameters // 8
    assert memory.gradients_bytes == 4 * SIZE.parameters // 8
    assert memory.optimizer_bytes == 12 * SIZE.parameters // 8


def test_adapters_alone_have_gradients_and_optimizer_state_and_the_reference_costs_nothing() -> None:
    lora = ("learner.lora.rank=8", "learner.lora.targets=[q_proj, v_proj]", "algorithm.kl.coefficient=0.1")
    memory = learner_memory(recipe(*lora), SIZE, "cuda")
    adapters = 28 * 8 * ((3584 + 3584) + (3584 + 512))
    assert memory.weights_bytes == 2 * (SIZE.parameters + adapters) // 8
    assert memory.gradients_bytes == 4 * adapters // 8
    assert memory.optimizer_bytes == 12 * adapters // 8
    full = learner_memory(recipe(), SIZE, "cuda")
    assert memory.head_bytes == full.head_bytes - 4 * SIZE.vocabulary * SIZE.hidden


def test_a_publish_of_adapters_alone_takes_little_more_than_its_fixed_part() -> None:
    lora = ("learner.lora.rank=8", "learner.lora.targets=[q_proj, v_proj]")
    merged, alone = (publish_seconds(recipe(*lora, f"rollout.lora={way}"), SIZE) for way in ("merged", "adapter"))
    assert merged == publish_seconds(recipe(), SIZE)
    share, fixed_s = 28 * 8 * ((3584 + 3584) + (3584 + 512)) / SIZE.parameters, 0.3
    assert alone == pytest.approx({name: fixed_s + (s - fixed_s) * share for name, s in merged.items()})


def test_ranks_that_share_sequences_divide_activations_and_nothing_else() -> None:
    shared, alone = (learner_memory(recipe(f"learner.sequence_parallel={ranks}"), SIZE, "cuda") for ranks in (4, 1))
    assert shared.activations_bytes == alone.activations_bytes // 4
    assert shared.head_bytes <= alone.head_bytes
    assert replace(shared, activations_bytes=0, head_bytes=0) == replace(alone, activations_bytes=0, head_bytes=0)
    bundle = plan_bundles(recipe("learner.sequence_parallel=4"), SIZE, "cuda")[0]
    assert (bundle.count, bundle.what) == (8, "DeepSpeed ZeRO-3 rank, 4 share a sequence")


def test_idle_experts_take_memory_and_no_arithmetic() -> None:
    mixture = replace(SIZE, idle_parameters=SIZE.parameters // 2)
    assert learner_memory(recipe(), mixture, "cuda") == learner_memory(recipe(), SIZE, "cuda")
    dense, half = (forecast_step(recipe(), size, GPUS["H100"], LENGTHS) for size in (SIZE, mixture))
    # Attention costs the same.
    assert 0.5 * dense.update_s < half.update_s < 0.6 * dense.update_s
    assert half.generate_s < dense.generate_s
    assert half.publish_s == dense.publish_s


def test_groups_of_ranks_that_share_sequences_stay_whole_in_every_division() -> None:
    ways = splits(recipe("learner.sequence_parallel=4"), SIZE, GPUS["H100"], LENGTHS)
    assert {way.ranks for way in ways} == {4, 8, 12}


@pytest.mark.parametrize(
    ("gpu", "overrides", "sentence"),
    [
        (
            "H100",
            [],
            "algorithm.max_policy_age is 0, so the learner waits 555 s per step for the engines, and the engines "
            "1,049 s for the learner",
        ),
        ("H100", [], "a publish takes 25.7 s by object_store, 3.3 s by collective"),
        ("H100", ["algorithm.max_policy_age=1"], "the engines wait 494 s per step for the learner"),
        (
            "H100",
            ["algorithm.max_policy_age=1", "learner.ranks=64"],
            "the learner waits 402 s per step for the engines",
        ),
        (
            "RTX 4090",
            [],
            "a learner rank does not fit on this GPU: raise learner.ranks or learner.sequence_parallel, or lower "
            "learner.micro_batch_tokens",
        ),
        (
            "RTX 4090",
            ["learner.zero_stage=1", "learner.micro_batch_tokens=4096"],
            "a learner rank does not fit on this GPU: raise learner.zero_stage, learner.ranks or "
            "learner.sequence_parallel, or lower data.max_prompt_tokens and rollout.max_response_tokens, whose sum of "
            "10,240 is more than learner.micro_batch_tokens (4,096)",
        ),
        (
            "RTX 4090",
            ["algorithm.max_policy_age=1"],
            "learner.ranks=12 rollout.workers=2 fits on the same number of GPUs, at 7,187 s per step",
        ),
        (
            "RTX 4090",
            ["rollout.tensor_parallel=1", "rollout.max_response_tokens=100000"],
            "an engine has no room for one sequence at full length: raise rollout.tensor_parallel to one of 2, 4, 28",
        ),
        (
            "RTX 4090",
            ["rollout.tensor_parallel=28", "rollout.max_response_tokens=100000000"],
            "an engine has no room for one sequence at full length: choose a larger GPU",
        ),
        (
            "RTX 4090",
            ["rollout.tensor_parallel=1"],
            "no division of these GPUs between learner and engines fits into their memory",
        ),
        (
            "H100",
            ["learner.ranks=4", "rollout.workers=6"],
            "learner.ranks=10 rollout.workers=3 takes 1,578 s per step on the same number of GPUs",
        ),
    ],
)
def test_advice_is_given_where_its_rule_holds(gpu: str, overrides: list[str], sentence: str) -> None:
    assert sentence in list(advice(recipe(*overrides), SIZE, GPUS[gpu], LENGTHS))


def test_a_response_longer_than_a_micro_batch_needs_the_memory_of_its_own_length() -> None:
    long, short = recipe("learner.micro_batch_tokens=10240"), recipe("learner.micro_batch_tokens=1")
    assert long.data.max_prompt_tokens + long.rollout.max_response_tokens == 10_240
    assert learner_memory(short, SIZE, "cuda") == learner_memory(long, SIZE, "cuda")


def test_what_is_offloaded_is_counted_in_main_memory() -> None:
    usual = learner_memory(recipe(), SIZE, "cuda")
    both = recipe("learner.offload_optimizer=cpu", "learner.offload_parameters=cpu")
    offloaded = learner_memory(both, SIZE, "cuda")
    assert (offloaded.weights_bytes, offloaded.optimizer_bytes) == (0, 0)
    assert offloaded.host_bytes == usual.weights_bytes + usual.optimizer_bytes
    assert offloaded.total_bytes + offloaded.host_bytes == usual.total_bytes
    assert learner_memory(both, SIZE, "cpu").total_bytes == learner_memory(recipe(), SIZE, "cpu").total_bytes
    text = StringIO()
    print_plan(both, "H100", LENGTHS, Console(file=text, width=120))
    assert re.search(r"in main memory instead +│ +│ 13\.3", text.getvalue())


def test_a_run_that_does_not_fit_gets_no_time_and_no_advice_against_itself() -> None:
    """An engine takes 60 % of a GPU that it shares, which is less than this model's weights."""
    larger = replace(SIZE, parameters=4 * SIZE.parameters)
    alone = ("rollout.tensor_parallel=1", "rollout.workers=8", "rollout.engine.gpu_memory_utilization=0.6")
    text = StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KNOWN_SIZES, recipe().model.path, larger)
        print_plan(recipe("cluster.layout=colocated", *alone), "H100", LENGTHS, Console(file=text, width=200))
    said = text.getvalue()
    assert "the rest: its weights are larger than vLLM's share" in said
    assert "the run does not fit into this memory, so no time is forecast for it" in said
    assert "an engine has no room for one sequence at full length: raise rollout.tensor_parallel to one of 2, 4" in said
    assert not re.search(r"hours|lower rollout\.engine|[ │]-\d", said)


def test_a_plan_is_printed_without_the_model_or_the_data() -> None:
    text = StringIO()
    config = recipe()
    print_plan(config, "h100", assumed_lengths(config, None, None), Console(file=text, width=120))
    assert "16 × H100: 8 for the learner, 4 × 2 for engines" in text.getvalue()
    assert "110.1 hours for run.max_steps=247, evaluations aside" in text.getvalue()


@pytest.mark.parametrize("stage", [2, 3])
def test_a_plan_says_what_a_start_takes_of_main_memory_whatever_the_ranks_divide_later(stage: int) -> None:
    text = StringIO()
    print_plan(recipe(f"learner.zero_stage={stage}"), "H100", LENGTHS, Console(file=text, width=120))
    wanted = "the learner ranks of a node share the pages of the model's files: 15.2 GB of main memory per node; files"
    assert wanted in " ".join(text.getvalue().split())


@pytest.mark.parametrize(
    ("gpu", "overrides", "sentence"),
    [
        ("TPU", [], "there is no GPU 'TPU' in the table: choose one of H100 PCIe, H100, H200"),
        ("H100", ["model.device=cpu"], "model.device is cpu, but a plan is for GPUs: add model.device=cuda"),
        (
            "H100",
            ["model.dtype=float32"],
            "model.dtype is float32, but a plan is for bfloat16: add model.dtype=bfloat16",
        ),
        (
            "H100",
            ["rollout.tensor_parallel=8", "rollout.workers=1"],
            "rollout.tensor_parallel is 8, which must divide the 28 attention heads",
        ),
    ],
)
def test_what_no_plan_is_made_for_is_refused(gpu: str, overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        print_plan(recipe(*overrides), gpu, LENGTHS, Console(file=StringIO()))


def test_a_mean_above_the_longest_response_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"^--response-tokens is 9000, but rollout.max_response_tokens is 8192: lower it"
    ):
        assumed_lengths(recipe(), None, 9000)


def test_a_process_on_the_cpu_holds_its_libraries_and_an_engine_a_fixed_cache() -> None:
    on_gpu, on_cpu = (learner_memory(recipe(), SIZE, device) for device in ("cuda", "cpu"))
    assert (on_gpu.libraries_bytes, on_cpu.libraries_bytes) == (0, 280 * 2**20)
    assert on_cpu.weights_bytes == on_gpu.weights_bytes
    engine = engine_memory(recipe(), SIZE, "cpu")
    assert engine.total_bytes == 2 * SIZE.parameters + 2**30 + 840 * 2**20
    config = recipe()
    longest = config.data.max_prompt_tokens + config.rollout.max_response_tokens
    on_gpu_bytes = engine_memory(config, SIZE, "cuda").total_bytes
    assert on_gpu_bytes == 2 * SIZE.parameters + 2 * longest * SIZE.key_value_elements
