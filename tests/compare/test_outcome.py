"""Run folders become figures, tests and a page; each run runs once, in order, and an interrupted comparison resumes."""

import asyncio
import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import pytest
from rich.console import Console

from maspo_dist.compare import run as compare_run
from maspo_dist.compare.outcome import Comparison, read_outcome, summarise
from maspo_dist.compare.page import over_seeds, render_comparison
from maspo_dist.compare.plan import Plan, PlannedRun, make_plan
from maspo_dist.compare.results import results_tree
from maspo_dist.compare.tables import variant_cells
from maspo_dist.config import CompareConfig, dump_config
from maspo_dist.errors import ConfigError, RunsFailedError
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.rows import SampleRow

SMOKE = Path(__file__).parents[2] / "configs" / "local_smoke.yaml"
SCORE = "eval/addition/avg@1"
#: Scores at steps 0, 2 and 4 by variant and seed.
SCORES = {
    ("maspo", 0): (0.3, 0.5, 0.7),
    ("maspo", 1): (0.2, 0.6, 0.8),
    ("grpo", 0): (0.3, 0.4, 0.6),
    ("grpo", 1): (0.2, 0.3, 0.5),
    ("sapo", 0): (0.3, 0.4, 0.7),
    ("sapo", 1): (0.2, 0.3, 0.6),
}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    settings = CompareConfig(
        name="c",
        config="",
        seeds="0-1",
        overrides=[f"run.dir={tmp_path}", "run.max_steps=4", "evaluation.every=2"],
        variants={"maspo": [], "grpo": ["algorithm.loss.kind=clip"]},
        against="grpo",
    )
    return make_plan(settings, SMOKE)


def leave(run: PlannedRun) -> None:
    """Writes the folder of a finished run."""
    scores = dict(zip((0, 2, 4), SCORES[run.variant, run.seed], strict=True))
    with RunFolder.resume(run.folder) as folder:
        folder.write_config(dump_config(run.config))
        folder.rewind(-1)
        for step in range(5):
            row = {"policy/entropy": 1.0 - step / 10, "gate/mean": 0.9} if step else {}
            folder.write_metrics(
                step, {**row, **({SCORE: scores[step], "time/evaluate_s": 1.0} if step in scores else {})}
            )


def compared(plan: Plan) -> Comparison:
    for run in plan.runs:
        leave(run)
    return summary(plan, plan.runs)


def summary(plan: Plan, finished: Sequence[PlannedRun]) -> Comparison:
    return summarise(plan, {run.folder: read_outcome(run, plan) for run in finished})


def test_figures_counted_by_hand(plan: Plan) -> None:
    comparison = compared(plan)
    maspo, grpo = comparison.variants
    assert maspo.estimates["final"].value == pytest.approx(0.75)
    assert maspo.estimates["area"].value == pytest.approx((0.5 + 0.55) / 2)
    assert maspo.estimates["entropy"].value == pytest.approx(0.6)
    assert maspo.estimates["gate"].value == pytest.approx(0.9)
    # Half way from 0.25, where all start, to 0.75, the best end.
    assert comparison.reach == pytest.approx(0.5)
    assert maspo.steps_to_reach == [2, 2]
    assert grpo.steps_to_reach == [4, 4]


def test_tests_are_paired_by_seed_against_the_baseline(plan: Plan) -> None:
    final, area = compared(plan).tests
    assert (final.variant, final.against, final.measure, final.seeds) == ("maspo", "grpo", "final", (0, 1))
    assert final.difference.value == pytest.approx((0.1 + 0.3) / 2)
    assert (final.ahead, final.p) == (2, 2 / 4)
    assert area.difference.value == pytest.approx((0.5 - 0.425 + 0.55 - 0.325) / 2)


def test_seeds_that_one_variant_lacks_are_left_out_of_the_test(plan: Plan) -> None:
    for run in plan.runs[:3]:
        leave(run)
    comparison = summary(plan, plan.runs[:3])
    assert [run.name for run in comparison.unfinished] == ["grpo-seed1"]
    assert {test.seeds for test in comparison.tests} == {(0,)}
    assert "1 of 4 runs are missing: grpo-seed1" in render_comparison(comparison)


def test_the_page_needs_no_other_file_and_shows_variants_tests_and_curves(plan: Plan) -> None:
    page = render_comparison(compared(plan))
    assert "http" not in page.replace("http://www.w3.org", "")
    for text in ("maspo", "grpo", "2 seeds", "0.750", "no p can be below 0.5", "Held-out score", "Policy entropy"):
        assert text in page
    assert page.count('class="band') >= 2


def test_areas_of_pass_at_k_of_the_reward_and_of_the_rare_route_are_measures_too(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "manifest.json").write_text(json.dumps({"rare_opening": ">"}))
    settings = CompareConfig(
        name="c",
        config="",
        seeds="0",
        overrides=[
            f"run.dir={tmp_path}", "run.max_steps=2", "evaluation.every=2", "evaluation.samples=4",
            "evaluation.temperature=1", f"model.path={tmp_path}/demo/model",
        ],
        variants={"maspo": [], "grpo": ["algorithm.loss.kind=clip"]},
    )  # fmt: skip
    made = make_plan(settings, SMOKE)
    for planned, rise in zip(made.runs, (0.4, 0.2), strict=True):
        with RunFolder.resume(planned.folder) as folder:
            folder.write_config(dump_config(planned.config))
            folder.write_samples(
                SampleRow(
                    step=step, group_id=0, prompt_id="p", source="", prompt="", response=response, reference="",
                    reward=0.0, status="wrong", extracted=None, seconds=0.0, reason="", finish_reason="stop",
                )
                for step, response in ((1, "#1"), (1, ">1"), (2, ">2"), (2, "2>"), (2, ">"), (2, ">3"))
            )  # fmt: skip
            for step in range(3):
                scores = {"eval/addition/avg@4": 0.1 + rise * step, "eval/addition/pass@4": 0.3 + rise * step}
                rewards = {"reward/mean": 0.5 * step} if step else {}
                folder.write_metrics(step, {**scores, **rewards, "time/evaluate_s": 1.0})
    comparison = summary(made, made.runs)
    figures = comparison.variants[0].runs[0].figures
    assert figures["pass_final"] == pytest.approx(1.1)
    assert figures["pass_area"] == pytest.approx(0.7)
    assert figures["reward_area"] == pytest.approx(0.75)
    assert figures["route_final"] == pytest.approx(3 / 4)
    assert figures["route_area"] == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert [test.measure for test in comparison.tests] == ["final", "area", "pass_final", "pass_area", "reward_area"]
    page = render_comparison(comparison)
    for text in ("area of pass@k", "area of sampled reward", "Held-out pass@k", "Share of the rare route"):
        assert text in page


def test_samples_to_the_score_are_counted_with_the_batch_size_of_each_variant(tmp_path: Path) -> None:
    settings = CompareConfig(
        name="c",
        config="",
        seeds="0",
        overrides=[f"run.dir={tmp_path}", "rollout.group_size=8", "evaluation.every=2"],
        variants={
            "small": ["rollout.prompts_per_step=32", "run.max_steps=16"],
            "big": ["rollout.prompts_per_step=64", "run.max_steps=8"],
        },
        reach=0.5,
    )
    made = make_plan(settings, SMOKE)
    for planned, reached in zip(made.runs, (8, 4), strict=True):
        with RunFolder.resume(planned.folder) as folder:
            folder.write_config(dump_config(planned.config))
            for step in range(0, planned.config.run.max_steps + 1, 2):
                folder.write_metrics(step, {SCORE: 0.6 if step >= reached else 0.3, "time/evaluate_s": 1.0})
    comparison = summary(made, made.runs)
    variants = results_tree(comparison, ())["variants"]
    assert [one["samples_per_step"] for one in variants] == [32 * 8, 64 * 8]
    assert [one["samples_to_reach"] for one in variants] == [8 * 256, 4 * 512]
    assert [variant_cells(one, [])[-1] for one in comparison.variants] == ["2.05k", "2.05k"]
    assert "8 or 16 steps and 4,096 samples per run" in render_comparison(comparison)


def test_p_values_are_also_given_corrected_for_the_variants_of_a_measure(tmp_path: Path) -> None:
    settings = CompareConfig(
        name="c",
        config="",
        seeds="0-1",
        overrides=[f"run.dir={tmp_path}", "run.max_steps=4", "evaluation.every=2"],
        variants={"grpo": ["algorithm.loss.kind=clip"], "maspo": [], "sapo": ["algorithm.loss.kind=sapo"]},
    )
    comparison = compared(make_plan(settings, SMOKE))
    tests = {(test.variant, test.measure): test for test in comparison.tests}
    assert tests["maspo", "area"].p == 2 / 4
    assert tests["maspo", "area"].p_holm == 1.0
    assert "by Holm is corrected for the variants that are tested on a" in render_comparison(comparison)


def test_curves_over_seeds_are_means_with_intervals() -> None:
    bins = over_seeds([((0, 1.0), (2, 2.0), (3, 9.0)), ((0, 1.0), (2, 4.0))])
    assert [(one.first, one.mean) for one in bins] == [(0, 1.0), (2, 3.0)]
    assert bins[0].low == bins[0].high == 1.0
    assert bins[1].low < 2.0
    assert bins[1].high > 4.0


def say(log: Path, text: str) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(text)


class Trainer:
    """A double of the lanes: each run writes its folder, or exits with a code."""

    def __init__(self, plan: Plan, codes: dict[str, int] | None = None) -> None:
        self.started: list[str] = []
        self._runs = {run.name: run for run in plan.runs}
        self._codes = codes or {}

    def __call__(self, command: Sequence[str]) -> Self:
        assert command[-1] == "lane"
        return self

    async def train(self, config: Path, overrides: Sequence[str], log: Path) -> int:
        name = next(word.partition("=")[2] for word in overrides if word.startswith("run.name="))
        self.started.append(name)
        code = self._codes.get(name, 0)
        if code == 0:
            leave(self._runs[name])
        say(log, "" if code == 0 else "starting\nerror: model.path m does not exist\n")
        return code

    async def close(self) -> None: ...


def run(plan: Plan, trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("maspo_dist.compare.run.Lane", trainer)
    screen = io.StringIO()
    compare_run.compare(plan, 1, (), Console(file=screen, width=200))
    return screen.getvalue()


def test_every_run_starts_once_and_a_second_call_starts_no_run(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(plan.runs[1])
    first, second = Trainer(plan), Trainer(plan)
    screen = run(plan, first, monkeypatch)
    assert first.started == ["maspo-seed0", "maspo-seed1", "grpo-seed1"]
    assert "0.750" in screen
    assert json.loads((plan.folder / "results.json").read_text())["variants"][0]["final"]["mean"] == pytest.approx(0.75)
    assert run(plan, second, monkeypatch).startswith("4 runs in")
    assert second.started == []


def test_a_failed_run_does_not_stop_the_others_and_is_named_at_the_end(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(plan, {"grpo-seed0": 1})
    with pytest.raises(RunsFailedError, match=r"1 of 4 runs failed, see .*grpo-seed0\.log: error: model\.path m"):
        run(plan, trainer, monkeypatch)
    assert len(trainer.started) == 4
    assert json.loads((plan.folder / "results.json").read_text())["unfinished"] == ["grpo-seed0"]


def test_a_score_that_no_run_has_is_named_and_an_earlier_report_stays(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(plan, Trainer(plan), monkeypatch)
    before = {name: (plan.folder / name).read_bytes() for name in ("results.json", "compare.html")}
    other = make_plan(plan.settings.model_copy(update={"score": "conversation/turns_mean"}), plan.base)
    with pytest.raises(ConfigError, match=r"^score: no finished run has the metric conversation/turns_mean: choose"):
        run(other, Trainer(other), monkeypatch)
    assert {name: (plan.folder / name).read_bytes() for name in before} == before


def test_a_run_without_the_score_stops_no_other_run_and_no_empty_report_is_written(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_plan(plan.settings.model_copy(update={"score": "conversation/turns_mean"}), plan.base)
    trainer = Trainer(other)
    with pytest.raises(ConfigError, match="no finished run has the metric"):
        run(other, trainer, monkeypatch)
    assert len(trainer.started) == 4
    assert not (plan.folder / "results.json").exists()


def test_a_run_whose_input_cannot_run_stops_the_comparison(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(plan, {"maspo-seed0": 2})
    with pytest.raises(ConfigError, match=r"^maspo-seed0 cannot run: model\.path m does not exist$"):
        run(plan, trainer, monkeypatch)
    assert trainer.started == ["maspo-seed0"]


def test_a_run_that_cannot_start_after_others_have_finished_costs_that_run_only(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(plan, {"grpo-seed0": 2})
    with pytest.raises(RunsFailedError, match=r"1 of 4 runs failed, see .*grpo-seed0\.log: error: model\.path m"):
        run(plan, trainer, monkeypatch)
    assert len(trainer.started) == 4


@contextlib.contextmanager
def used_by_another_process(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the lock of `folder` until it is killed."""
    folder.mkdir(parents=True)
    code = (
        "import fcntl, sys\nlock = open(sys.argv[1], 'ab')\nfcntl.lockf(lock, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\nsys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        yield other
        other.kill()


def test_one_comparison_at_a_time_in_a_folder(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        used_by_another_process(plan.folder),
        pytest.raises(ConfigError, match="is in use by another comparison: choose another --name"),
    ):
        run(plan, Trainer(plan), monkeypatch)


def test_a_run_starts_again_once_the_process_of_a_killed_comparison_has_left_its_folder(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = plan.runs[0]
    with used_by_another_process(first.folder) as other:
        monkeypatch.setattr("maspo_dist.compare.run.asyncio.sleep", lambda _: asyncio.to_thread(other.kill))
        screen = run(plan, Trainer(plan), monkeypatch)
    left = f"{first.name}: waits until the earlier process has left {first.folder}"
    assert screen.replace("\n", " ").index(left) < screen.index(f"{first.name}: done in")
