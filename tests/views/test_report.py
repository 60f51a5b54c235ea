"""The report: one safe, self-contained page for any run folder."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from doubles.run_folders import sample_row
from jinja2 import UndefinedError

from maspo_dist.errors import ConfigError
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.jsonl import JsonLog, tail_rows
from maspo_dist.runs.rows import Event, SampleRow
from maspo_dist.types import LedgerRow, TurnRow
from maspo_dist.views.report import write_report
from maspo_dist.views.report.charts import (
    Line,
    binned,
    heat_chart,
    line_chart,
    linear_scale,
    log_scale,
    log_ticks,
    round_ticks,
    running_mean,
    stacked_chart,
    step_scale,
    tick_label,
)
from maspo_dist.views.report.page import render_page, shorten
from maspo_dist.views.report.runs import Series, config_differences, read_run

NAN = math.nan
VOID_TAGS = {"meta", "br", "hr", "img", "link", "input"}
FinishedRun = Callable[..., RunFolder]


def series(*points: tuple[int, float]) -> Series:
    steps, values = zip(*points, strict=True)
    return Series(np.asarray(steps), np.asarray(values))


class Page(HTMLParser):
    """A parsed page: its text and its tags, which must close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID_TAGS:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


def report(*folders: RunFolder) -> Page:
    out = folders[0].path / "report.html"
    write_report([folder.path for folder in folders], out)
    return Page(out.read_text(encoding="utf-8"))


def test_a_finished_run_shows_everything(tmp_path: Path, finished_run: FinishedRun) -> None:
    page = report(finished_run(tmp_path / "demo", steps=30))
    for part in (
        "Training reward",
        "Held-out: add",
        "Response length",
        "Cut off or unverifiable",
        "Policy entropy",
        "Distance from π_old",
        "Probability ratio",
        "Mean gate",
        "Gated tokens",
        "by plain PPO clipping, for comparison",
        "Mass clamps that bind",
        "Risk clamps that bind",
        "PPO clip would cut",
        "mass at σ_max",
        "Gradient norm",
        "Engine against learner",
        "Policy age",
        "Time",
        "Throughput",
        "A > 0: tokens to make likelier",
        "A < 0: tokens to make rarer",
        "all rewards equal 0",
        "rollout-1 was killed",
        "config.yaml of demo",
        "mean of 5 steps",
        "A trust region had nothing to do in 0% of the batches",
        "Rare tokens grow here that PPO clipping would stop: maspo may learn faster than clipping does.",
        "… of rare tokens that should grow",
    ):
        assert part in page.text, part
    assert "NaN" not in page.text
    assert "nan" not in page.text


def test_tokens_with_the_extreme_ratios_are_shown_with_their_positions(
    tmp_path: Path, finished_run: FinishedRun
) -> None:
    folder = finished_run(tmp_path / "demo", steps=3)
    last = list(folder.read_metrics())[-1]
    text = report(folder).text
    table = text[text.index("Tokens with the extreme ratios") :]
    for part in ("largest", f"{last['ratio/max']:.4g}", "smallest", f"{last['ratio/min']:.4g}", "4321", "17", "-1.250"):
        assert part in table, part


def test_the_page_needs_no_other_file(tmp_path: Path, finished_run: FinishedRun) -> None:
    page = report(finished_run(tmp_path / "demo", steps=3))
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "href") or name.startswith("on")]
    assert "http" not in (tmp_path / "demo" / "report.html").read_text()


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_report_shows_runs_of_few_steps(tmp_path: Path, finished_run: FinishedRun, steps: int) -> None:
    page = report(finished_run(tmp_path / "demo", steps=steps))
    assert f"{steps} of {steps} steps" in page.text
    assert "Held-out: add" in page.text


def test_a_run_that_only_began(folder: RunFolder) -> None:
    assert "No metrics yet." in report(folder).text


def test_metrics_that_are_missing_or_null_leave_gaps(folder: RunFolder) -> None:
    folder.write_metrics(1, {"reward/mean": None, "gate/mean": 0.9, "trust_region/pos/0.1/token_share": None})
    folder.write_metrics(2, {"reward/mean": None, "sync/max_logprob_gap": 0.0, "custom/thing": 3.0})
    page = report(folder)
    assert "Mean gate" in page.text
    assert "Training reward" not in page.text
    assert "custom/thing" in page.text, "what has no chart of its own is shown with the rest"


def test_text_of_responses_and_events_is_escaped(folder: RunFolder) -> None:
    evil = "<script>alert(1)</script>\"'&\x00\ud83d\x1b[31m"
    folder.config_path.write_text("note: '<script>alert(1)</script>'\n")
    folder.write_metrics(1, {"reward/mean": 0.5})
    folder.write_event(Event(kind=evil, message=evil, details=(("text", evil),)))
    folder.write_ledger([LedgerRow(group_id=1, prompt_id=evil, step=1, outcome="dropped", reason=evil)])
    folder.write_samples(
        [
            SampleRow(
                step=1,
                group_id=1,
                prompt_id=evil,
                source=evil,
                prompt=evil,
                response=evil * 1000,
                reference=evil,
                reward=math.nan,
                status=evil,
                extracted=None,
                seconds=0.1,
                reason=evil,
                finish_reason="length",
            )
        ]
    )
    page = report(folder)
    assert "script" not in page.tags
    assert page.text.count("<script>alert(1)</script>") > 5
    assert "no answer found" in page.text
    assert "cut off at the token limit" in page.text
    assert "characters left out" in page.text


def test_all_turns_of_a_response_are_shown_with_what_was_heard(folder: RunFolder) -> None:
    folder.write_metrics(1, {"reward/mean": 0.5, "conversation/turns_mean": 2.0, "conversation/turns_max": 2.0})
    row = sample_row(random.Random(0), 1, 1, correct=True)
    turns = (
        TurnRow(said="calc(1+2)<|end|>", heard="<|user|>three<|assistant|>", reward=None, seconds=0.1),
        TurnRow(said="it is 3<|end|>", heard="", reward=1.0, seconds=0.1),
    )
    folder.write_samples([replace(row, response="it is 3", turns=turns)])
    page = report(folder)
    assert "Turns of a conversation" in page.text
    assert "2 turns; reward 1" in page.text
    first, heard, last = (page.text.index(text) for text in ("calc(1+2)<|end|>", "<|user|>three", "it is 3<|end|>"))
    assert first < heard < last


def test_several_runs_are_compared(tmp_path: Path, finished_run: FinishedRun) -> None:
    maspo = finished_run(tmp_path / "maspo", steps=20)
    clip = finished_run(tmp_path / "clip", steps=10, loss="clip", seed=1)
    page = report(maspo, clip)
    assert "2 runs compared" in page.text
    assert "differs in" in page.text
    assert "Time: clip" in page.text
    assert page.text.count("A trust region had nothing to do in 0% of the batches") == 2
    assert "try algorithm.loss.kind=maspo, at a rate of its own." in page.text
    assert "solid avg@4, dashed pass@4" in page.text
    assert config_differences([read_run(maspo.path), read_run(clip.path)]) == [
        ["run.max_steps", 20, 10],
        ["run.seed", 0, 1],
        ["algorithm.loss.kind", "maspo", "clip"],
    ]


def test_a_long_run_makes_a_page_of_bounded_size(tmp_path: Path, folder: RunFolder) -> None:
    names = ("reward/mean", "policy/entropy", "gate/mean", "time/generate_s", "time/step_s")
    with closing(JsonLog(folder.metrics_path)) as log:
        log.append({"step": step, **{name: math.sin(step) for name in names}} for step in range(20_000))
    assert "A trust region had nothing to do" not in report(folder).text
    assert folder.report_path.stat().st_size < 500_000


def test_samples_of_an_older_run_have_no_turns_and_are_shown(tmp_path: Path, finished_run: FinishedRun) -> None:
    folder = finished_run(tmp_path / "demo", steps=3)
    rows = [json.loads(line) for line in folder.samples_path.read_text(encoding="utf-8").splitlines()]
    older = [{key: value for key, value in row.items() if key != "turns"} for row in rows]
    folder.samples_path.write_text("".join(json.dumps(row) + "\n" for row in older), encoding="utf-8")
    assert older[0]["response"] in report(folder).text


def test_folders_without_a_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run folder"):
        write_report([tmp_path], tmp_path / "report.html")
    with pytest.raises(ConfigError, match="no run folder given"):
        write_report([], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_bins_keep_extremes_and_gaps() -> None:
    bins = binned(series((0, 1.0), (1, 3.0), (2, NAN), (3, NAN), (4, 5.0)), limit=3)
    assert bins[1] is None
    first, last = bins[0], bins[2]
    assert first is not None
    assert last is not None
    assert (first.first, first.last, first.mean, first.low, first.high) == (0, 1, 2.0, 1.0, 3.0)
    assert (last.first, last.mean) == (4, 5.0)


def test_a_running_mean_looks_back_only() -> None:
    means = running_mean(series((0, NAN), (1, 1.0), (2, 3.0), (3, NAN), (4, 5.0)), 2)
    assert means.steps.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(means.values, [NAN, 1.0, 2.0, 2.0, 4.0])


def test_a_curve_breaks_where_values_are_missing() -> None:
    line = Line(label="x", bins=binned(series((0, 1.0), (1, 2.0), (2, NAN), (3, 1.0)), 9), color=0)
    svg = line_chart([line], "unit")
    assert svg.count('<path class="line') == 1
    assert svg.count('<circle class="f0') == 1, "a lone point is a dot"


def test_charts_without_data_are_left_out() -> None:
    empty = series((0, NAN))
    assert line_chart([Line(label="x", bins=binned(empty, 9), color=0)], "unit") == ""
    assert stacked_chart({"x": empty}, empty, "unit") == ""
    assert heat_chart({"x": empty}, "unit") == ""


def test_strips_of_a_heat_map_share_their_steps() -> None:
    full, late = series(*((step, 1.0) for step in range(4))), series((2, 0.5), (3, 0.5))
    svg = heat_chart({"full": full, "late": late}, "share")
    places = [part.split('x="')[1].split('"')[0] for part in svg.split("<rect")[1:]]
    assert places[:4][2:] == places[4:]


def test_a_logarithmic_chart_takes_zeros() -> None:
    line = Line(label="gap", bins=binned(series((0, 0.0), (1, 1e-6), (2, 1e-4)), 9), color=0)
    svg = line_chart([line], "nats", log=True)
    assert "step 0: 0<" in svg
    assert ">1e-5<" in svg


def test_scales() -> None:
    scale = linear_scale([0.0, 10.0], 100, 0)
    assert scale(0.0) == 100.0
    assert 0 < scale(10.0) < 10
    assert linear_scale([5.0], 100, 0)(5.0) == pytest.approx(50)
    assert log_scale([1e-6, 1e-2], 0, 100)(1e-4) == pytest.approx(50)
    assert step_scale(3, 3, 0, 100)(3) == pytest.approx(50)


def test_ticks_are_round() -> None:
    assert round_ticks(0.0, 1.0, 4) == (0.0, 0.5, 1.0)
    assert round_ticks(0.31, 0.66, 4) == (0.4, 0.5, 0.6)
    assert log_ticks(1e-7, 1e-5, 4) == pytest.approx((1e-7, 1e-6, 1e-5))
    assert log_ticks(0.7, 6.0, 4) == pytest.approx((1, 2, 5))
    assert [tick_label(value) for value in (0.0, 0.25, 1500.0, 2e4, 1e-6)] == ["0", "0.25", "1500", "20k", "1e-6"]


def test_a_template_escapes_values_and_replaces_what_a_page_cannot_hold(tmp_path: Path) -> None:
    template = tmp_path / "page.html"
    template.write_text('<p title="{{ text }}">{{ text }}</p>')
    escaped = "a&lt;b&gt;&amp;&#34;&#39;��\n\tπ"
    text = "a<b>&\"'\x00\ud83d\n\tπ"
    assert render_page(template, {"text": text}) == f'<p title="{escaped}">{escaped}</p>'


def test_a_template_with_an_unknown_name_is_an_error(tmp_path: Path) -> None:
    template = tmp_path / "page.html"
    template.write_text("{{ txet }}")
    with pytest.raises(UndefinedError, match="txet"):
        render_page(template, {"text": "a"})


def test_a_long_text_is_shortened_in_the_middle() -> None:
    assert shorten("a" * 100, 10, 10).startswith("a" * 10 + "\n… 80 characters left out")
    assert shorten("abc", 2, 1) == "abc"


def test_the_catalogue_explains_the_curves(tmp_path: Path, finished_run: FinishedRun) -> None:
    page = report(finished_run(tmp_path / "demo", steps=3))
    assert "reward/mean: mean reward of the verifiable responses" in page.text
    assert ("title", "largest ratio ρ of a token") in page.attributes


def test_tail_rows_reads_the_end_only(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(100)) + '{"torn')
    assert tail_rows(path, 40) == [{"step": 97}, {"step": 98}, {"step": 99}]
    assert len(tail_rows(path)) == 100
    assert tail_rows(path, 3) == [{"step": 99}]
    assert tail_rows(tmp_path / "none.jsonl") == []


def test_a_long_run_is_sampled_with_its_ends_and_all_of_its_scores(
    tmp_path: Path, finished_run: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished_run(tmp_path / "long", steps=200)
    whole = read_run(folder.path)
    monkeypatch.setattr("maspo_dist.runs.folder._SAMPLED_BYTES", folder.metrics_path.stat().st_size // 4)
    monkeypatch.setattr("maspo_dist.runs.jsonl._END_BYTES", 120_000)
    sampled = read_run(folder.path)
    assert (whole.every, sampled.every) == (1, 5)
    assert sampled.progress == whole.progress == folder.read_progress()
    scores = [name for name in whole.series if name.startswith("eval/")]
    assert scores
    for name in scores:
        assert sampled.series[name].values.tolist() == whole.series[name].values.tolist()
    rewards, few = whole.series["reward/mean"], sampled.series["reward/mean"]
    assert 40 < few.steps.size < 150
    assert few.values.tolist() == rewards.values[np.isin(rewards.steps, few.steps)].tolist()
    assert "1 of 5 steps is drawn" in report(folder).text
