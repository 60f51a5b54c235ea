"""Each comparison in configs/ has the variants that its file describes."""

import re
from pathlib import Path

import pytest

from maspo_dist.compare.earlier import Earlier
from maspo_dist.compare.options import make_settings
from maspo_dist.compare.plan import Plan, make_plan
from maspo_dist.compare.tuning import chosen_values, tune

CONFIGS = Path(__file__).parents[2] / "configs"
README = (CONFIGS.parent / "README.md").read_text(encoding="utf-8")
#: The comparisons that have a table in the README.
TABLES = re.findall(r"<!-- maspo-dist compare-table configs/results/compare_(\w+)\.json -->", README)
#: The variants that all files have.
LOSSES = [
    "maspo", "maspo-gate", "maspo-gate-mass", "maspo-gate-risk", "maspo-clip", "grpo", "grpo-dual-clip", "clip-higher",
    "sapo", "cispo", "dac", "gspo", "bapo", "dppo", "unclipped",
]  # fmt: skip


def plan_of(name: str, only: str | None = None) -> Plan:
    # Few seeds: their configurations differ in seeds and paths alone.
    return make_plan(*make_settings(CONFIGS / f"compare_{name}.yaml", {"seeds": "0,9", "tune_seeds": "100"}, only=only))


@pytest.mark.parametrize(
    ("name", "task", "demo", "optimizer_steps", "prompts", "steps"),
    [("demo", "addition", "seed", 8, 32, 16), ("route", "route", "route-seed", 32, 64, 12)],
)
def test_plain_addition_and_the_route_are_trained_on_policy_with_many_optimizer_steps_per_batch(
    name: str, task: str, demo: str, optimizer_steps: int, prompts: int, steps: int
) -> None:
    made = plan_of(name)
    assert list(made.variants) == LOSSES
    assert (made.score, made.pass_score, made.against) == (f"eval/{task}/avg@4", f"eval/{task}/pass@4", "maspo")
    for run in (*made.runs, *made.tuning_runs):
        algorithm, rollout = run.config.algorithm, run.config.rollout
        assert (algorithm.mini_batches, algorithm.max_policy_age) == (optimizer_steps, 0)
        assert (rollout.prompts_per_step, rollout.group_size, run.config.run.max_steps) == (prompts, 8, steps)
        assert run.config.model.path == f".cache/demo/{demo}-{run.seed}/model"


def test_each_loss_is_tuned_over_four_rates_and_grpo_on_the_route_over_five() -> None:
    assert len(plan_of("demo").candidates) == 4 * len(LOSSES)
    assert len(plan_of("route").candidates) == 4 * len(LOSSES) + 1


@pytest.mark.parametrize("name", ["demo", "route", "stale"])
def test_an_ablation_differs_from_maspo_by_its_terms_alone(name: str) -> None:
    losses = {run.variant: run.config.algorithm.loss.model_dump() for run in plan_of(name).runs}
    full = losses["maspo"]
    assert losses["maspo-gate"] == {**full, "alpha": 0, "beta_pos": 0, "beta_neg": 0}
    assert losses["maspo-gate-mass"] == {**full, "beta_pos": 0, "beta_neg": 0}
    assert losses["maspo-gate-risk"] == {**full, "alpha": 0}
    assert losses["clip-higher"] == {**losses["grpo"], "epsilon_high": 0.28}


def test_stale_batches_are_compared_with_rollout_and_recomputed_logprobs() -> None:
    made = plan_of("stale")
    recomputed = [name for name in made.variants if "recompute" in name]
    assert list(made.variants) == [*LOSSES, *recomputed]
    assert len(recomputed) == 5
    for run in made.runs:
        algorithm = run.config.algorithm
        assert (algorithm.mini_batches, algorithm.max_policy_age) == (4, 4)
        assert algorithm.old_logprobs == ("recompute" if run.variant in recomputed else "rollout")
        assert algorithm.correction.kind == ("tis" if run.variant.endswith("tis") else "none")
        assert (run.config.rollout.prompts_per_step, run.config.run.max_steps) == (32, 24)


def only_of(command: str) -> list[str]:
    """The variants that follow `--only`, which may stand on the next line."""
    return command.partition("--only")[2].split()[0].rstrip("`").split(",")


@pytest.mark.parametrize("name", TABLES)
def test_the_command_in_the_file_makes_the_table_of_the_readme(name: str) -> None:
    header = only_of((CONFIGS / f"compare_{name}.yaml").read_text(encoding="utf-8"))
    assert header == only_of(README.partition(f"maspo-dist compare configs/compare_{name}.yaml")[2])
    table = README.partition(f"compare-table configs/results/compare_{name}.json -->")[2].partition("\n\n")[0]
    assert header == re.findall(r"^\| ([a-z-]*[a-z][a-z-]*) ", table, re.MULTILINE)[1:]
    assert list(plan_of(name, ",".join(header)).variants) == header


@pytest.mark.parametrize("name", TABLES)
def test_no_run_of_a_table_is_trained_again_when_its_results_are_given(name: str) -> None:
    earlier = Earlier(CONFIGS / "results" / f"compare_{name}.json")
    only = ",".join(only_of((CONFIGS / f"compare_{name}.yaml").read_text(encoding="utf-8")))
    settings, base = make_settings(CONFIGS / f"compare_{name}.yaml", {}, only=only)
    plan = make_plan(earlier.with_reach(settings), base)
    earlier.require_like(plan)
    known = earlier.outcomes(plan)
    assert {run.folder for run in plan.tuning_runs} <= known.keys()
    tuned = make_plan(plan.settings, base, chosen_values(tune(plan, known)))
    assert {run.folder for run in tuned.runs} <= earlier.outcomes(tuned).keys()
