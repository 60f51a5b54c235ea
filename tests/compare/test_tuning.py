"""Each variant gets its own best values on tuning seeds, then the comparison runs on fresh seeds."""

import json
from pathlib import Path

import pytest
from doubles.comparison import Trainer, leave, run, tuned_plan

from maspo_dist.compare.outcome import read_outcome
from maspo_dist.compare.tables import edge_sentences
from maspo_dist.compare.tuning import chosen_values, tune
from maspo_dist.errors import ConfigError, RunsFailedError


def test_each_variant_gets_its_own_best_rate_and_an_edge_of_the_grid_is_named(tmp_path: Path) -> None:
    plan = tuned_plan(tmp_path)
    for tuning_run in plan.tuning_runs:
        leave(tuning_run)
    tuned = tune(plan, {run.folder: read_outcome(run, plan) for run in plan.tuning_runs})
    assert chosen_values(tuned) == {"maspo": {"learner.lr": "1e-4"}, "clip": {"learner.lr": "2e-4"}}
    # Area by trapezoids over steps 0, 2 and 4: ((0.2 + 0.7) / 2 + 0.7) / 2, and 0.0075 more with the second seed.
    assert [point.mean for point in tuned[0].points] == pytest.approx([0.42875, 0.57875, 0.35375], abs=1e-9)
    assert tuned[0].edges == {}
    assert edge_sentences(tuned) == [
        "clip: learner.lr=2e-4 is the largest value of its grid, and a value beyond it may be better: extend the grid"
    ]


def test_no_value_is_chosen_while_a_tuning_run_is_missing(tmp_path: Path) -> None:
    plan = tuned_plan(tmp_path)
    for tuning_run in plan.tuning_runs[:-1]:
        leave(tuning_run)
    outcomes = {run.folder: read_outcome(run, plan) for run in plan.tuning_runs[:-1]}
    assert chosen_values(tune(plan, outcomes)) == {"maspo": {"learner.lr": "1e-4"}}


def test_tuning_runs_come_first_and_the_comparison_takes_their_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tuned_plan(tmp_path)
    trainer = Trainer(plan)
    screen = run(plan, trainer, monkeypatch)
    assert len(trainer.started) == 12 + 4
    assert trainer.started[12:] == [
        "maspo-lr-1e-4-seed0", "clip-lr-2e-4-seed0", "maspo-lr-1e-4-seed1", "clip-lr-2e-4-seed1"
    ]  # fmt: skip
    assert "clip: learner.lr=2e-4 is the largest value of its grid" in screen
    results = json.loads((plan.folder / "results.json").read_text())
    assert [one["overrides"][-1] for one in results["variants"]] == ["learner.lr=1e-4", "learner.lr=2e-4"]
    grid = results["tuning"]["variants"][1]
    assert (grid["chosen"], grid["edges"]) == ({"learner.lr": "2e-4"}, {"learner.lr": "largest"})
    assert [point["values"]["learner.lr"] for point in grid["grid"]] == ["5e-5", "1e-4", "2e-4"]
    assert grid["grid"][0]["by_seed"].keys() == {"100", "101"}
    assert "is the largest value of its grid" in (plan.folder / "compare.html").read_text()


def test_after_a_kill_the_comparison_continues_in_the_middle_of_tuning_and_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tuned_plan(tmp_path)
    for tuning_run in plan.tuning_runs[:7]:
        leave(tuning_run)
    first = Trainer(plan, {"clip-lr-2e-4-seed0": -9})
    with pytest.raises(RunsFailedError, match="1 of 16 runs failed"):
        run(plan, first, monkeypatch)
    assert len(first.started) == 5 + 4
    second = Trainer(plan)
    run(plan, second, monkeypatch)
    assert second.started == ["clip-lr-2e-4-seed0"]


def test_a_larger_grid_that_changes_a_tuned_value_keeps_all_runs_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tuned_plan(tmp_path, tune={"learner.lr": ["5e-5", "1e-4"]})
    run(small, Trainer(small), monkeypatch)
    large = tuned_plan(tmp_path)
    trainer = Trainer(large)
    run(large, trainer, monkeypatch)
    assert trainer.started[4:] == ["clip-lr-2e-4-seed0", "clip-lr-2e-4-seed1"]
    assert {path.name for path in large.folder.glob("clip-*")} == {
        f"clip-lr-{rate}-seed{seed}" for rate in ("1e-4", "2e-4") for seed in (0, 1)
    }


def test_tuned_values_that_are_lists_are_shown_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = ["[/tmp/a.jsonl]", "[/tmp/b.jsonl, /tmp/c.jsonl]"]
    plan = tuned_plan(tmp_path, variants={"maspo": []}, tune={"data.train": lists, "learner.lr": ["1e-4"]})
    screen = run(plan, Trainer(plan), monkeypatch)
    for values in lists:
        assert f"data.train={values}, learner.lr=1e-4" in screen


def test_no_run_of_the_comparison_starts_after_a_failed_tuning_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tuned_plan(tmp_path)
    trainer = Trainer(plan, {"maspo-lr-1e-4-seed101": 1})
    with pytest.raises(RunsFailedError, match=r"1 of 16 runs failed, see .*maspo-lr-1e-4-seed101\.log"):
        run(plan, trainer, monkeypatch)
    assert len(trainer.started) == 12
    assert json.loads((plan.folder / "results.json").read_text())["tuning"]["variants"][0]["chosen"] is None


def test_a_measure_that_no_tuning_run_has_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tuned_plan(tmp_path, tune_by="reward_area")
    with pytest.raises(ConfigError, match="tune_by: the tuning runs of maspo have no reward_area"):
        run(plan, Trainer(plan), monkeypatch)


def test_a_score_that_no_tuning_run_has_is_named_before_the_comparison_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tuned_plan(tmp_path, score="conversation/turns_mean")
    trainer = Trainer(plan)
    with pytest.raises(ConfigError, match=r"^score: no finished run has the metric conversation/turns_mean: choose"):
        run(plan, trainer, monkeypatch)
    assert len(trainer.started) == 12
