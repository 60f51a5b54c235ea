"""A comparison reads runs from the results.json of an earlier comparison, and trains the rest."""

import json
import shutil
from pathlib import Path

import pytest
from doubles.comparison import Trainer, run, tuned_plan

from maspo_dist.compare.earlier import Earlier
from maspo_dist.compare.plan import Plan
from maspo_dist.errors import ConfigError

SAPO = {"sapo": ["algorithm.loss.kind=sapo"]}
VARIANTS = {"maspo": [], "clip": ["algorithm.loss.kind=clip"]}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a finished comparison of `VARIANTS` whose run folders are gone."""
    plan = tuned_plan(tmp_path)
    run(plan, Trainer(plan), monkeypatch)
    kept = tmp_path / "kept.json"
    shutil.move(plan.folder / "results.json", kept)
    shutil.rmtree(plan.folder)
    return kept


def plan_after(results: Path, folder: Path, **settings: object) -> Plan:
    plan = tuned_plan(folder, **settings)
    return tuned_plan(folder, **(settings | {"reach": Earlier(results).with_reach(plan.settings).reach}))


def test_only_the_runs_that_the_file_lacks_are_trained(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_after(results, tmp_path, variants=VARIANTS | SAPO)
    trainer = Trainer(plan)
    screen = run(plan, trainer, monkeypatch, Earlier(results))
    assert trainer.started == [
        *(f"sapo-lr-{rate}-seed{seed}" for seed in (100, 101) for rate in ("5e-5", "1e-4", "2e-4")),
        "sapo-lr-1e-4-seed0", "sapo-lr-1e-4-seed1",
    ]  # fmt: skip
    assert "start at another score" not in screen
    before, after = json.loads(results.read_text()), json.loads((plan.folder / "results.json").read_text())
    assert after["reach"] == before["reach"]
    assert after["variants"][:2] == before["variants"]
    assert after["runs"][:4] == before["runs"]
    assert after["tuning"]["variants"][:2] == before["tuning"]["variants"]
    assert {test["variant"] for test in after["tests"]} == {"clip", "sapo"}
    assert "Of 4 runs of an earlier comparison only figures are known" in (plan.folder / "compare.html").read_text()


def test_a_grid_that_leads_to_another_value_trains_the_runs_of_that_value_alone(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tuned_plan(tmp_path, tune={"learner.lr": ["5e-5", "1e-4"]})
    trainer = Trainer(plan)
    run(plan, trainer, monkeypatch, Earlier(results))
    # The best rate of clip is no longer in its grid.
    assert trainer.started == ["clip-lr-1e-4-seed0", "clip-lr-1e-4-seed1"]


def test_a_run_that_is_here_counts_before_the_run_of_the_file(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = json.loads(results.read_text())
    plan = plan_after(results, tmp_path)
    run(plan, Trainer(plan), monkeypatch)
    for row in rows["runs"]:
        row["final"] = 0.0
    results.write_text(json.dumps(rows))
    run(plan, Trainer(plan), monkeypatch, Earlier(results))
    assert all(row["final"] > 0 for row in json.loads((plan.folder / "results.json").read_text())["runs"])


def test_seeds_that_start_at_another_score_are_named(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = json.loads(results.read_text())
    for row in tree["runs"]:
        row["start"] += 0.01 if row["seed"] == 1 else 0.0
    results.write_text(json.dumps(tree))
    plan = plan_after(results, tmp_path, variants=VARIANTS | SAPO)
    screen = run(plan, Trainer(plan), monkeypatch, Earlier(results))
    assert f"the runs of seed 1 start at another score than those in {results}: the model, the data" in " ".join(
        screen.split()
    )


def test_a_variant_with_other_overrides_is_trained(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_after(
        results, tmp_path, variants={"maspo": [], "clip": ["algorithm.loss.kind=clip", "learner.eps=1e-7"]}
    )
    trainer = Trainer(plan)
    run(plan, trainer, monkeypatch, Earlier(results))
    assert len(trainer.started) == 6 + 2
    assert all(name.startswith("clip-") for name in trainer.started)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"score": "reward/mean"}, "has the score eval/addition/avg@1, not reward/mean: set score"),
        ({"reach": 0.123}, r"counts steps to the score 0\.\d+, not 0\.123: leave out reach"),
        ({"tune_by": "final"}, "is tuned by area, not final: set tune_by"),
        ({"overrides": ["run.max_steps=8", "evaluation.every=2"]}, "trains on 2,048 samples in 4 steps, and this"),
    ],
)
def test_a_file_that_does_not_compare_is_refused_in_one_sentence(
    results: Path, tmp_path: Path, settings: dict[str, object], sentence: str
) -> None:
    plan = plan_after(results, tmp_path, **settings)
    with pytest.raises(ConfigError, match=sentence):
        Earlier(results).require_like(plan)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"score": "a", "variants": []}'])
def test_another_file_is_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"^--earlier .* is not the results\.json of a comparison: give the results"):
        Earlier(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        Earlier(tmp_path / "none.json")
