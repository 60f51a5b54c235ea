"""A check of the GPU bench can end in any way: it costs that check only, and its line says why."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from actors.bench.gpu import run as gpu_run
from actors.bench.gpu.checks import CHECKS, Check, chosen
from actors.bench.gpu.result import CheckResult, Limit, Measured, decode, encode, judged
from actors.bench.gpu.run import CheckProcesses, run_checks
from actors.bench.gpu.setting import FULL, TINY, Setting, make_setting
from maspo_dist.errors import UserError

TESTS = Path(__file__).parents[1]
SETTING = Setting(device="cpu", is_tiny=True)


def group(*names: str, deadline_s: float = 120.0) -> tuple[Check, ...]:
    return tuple(Check(name=name, target=f"doubles.gpu_checks:{name}", deadline_s=deadline_s) for name in names)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", f"{TESTS}:{TESTS.parent}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_check_that_ends_badly_leaves_its_log_and_costs_neither_the_checks_before_it_nor_those_after(
    temporary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("passes", "breaks_its_limit", "raises", "exits", "dies", "passes")
    results = CheckProcesses(SETTING).results(group(*names))
    assert [(result.check, result.reason) for result in results] == [
        ("passes", None),
        ("breaks_its_limit", "gap is 0.07, where <= 0.05 is wanted"),
        ("raises", "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB"),
        ("exits", "its process ended with exit code 7"),
        ("dies", "its process ended by SIGSEGV"),
        ("passes", None),
    ]
    processes = {result.measured.figures["process"] for result in results if result.ok}
    assert len(processes) == 2
    assert "the driver is gone" in capsys.readouterr().err
    assert list(temporary.iterdir()) == []


def test_a_check_that_hangs_is_killed_at_its_deadline(temporary: Path) -> None:
    [result] = CheckProcesses(SETTING).results(group("hangs", deadline_s=0.5))
    assert result.reason == "DeadlineError: no end within 0.5 s; its process was killed"


def test_without_a_gpu_every_check_says_what_is_missing_and_the_last_line_sums_up(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = Check(name="many", target="doubles.gpu_checks:passes", deadline_s=120, gpus=2)
    monkeypatch.setattr(gpu_run, "chosen", lambda only: [(*group("passes", "raises"), many)])
    lines: list[str] = []
    # No GPU is visible, so whatever needs two is left out.
    assert not run_checks((), Setting(device="cuda", is_tiny=True), lines.append)
    first, second, summary = map(json.loads, lines)
    assert (first["check"], first["ok"], first["device"]) == ("passes", False, "cuda")
    assert first["reason"].startswith("ConfigError: the run is on cuda (model.device), but on node ")
    assert (second["check"], second["ok"]) == ("raises", False)
    assert summary["left_out"] == ["many"]
    assert (summary["ok"], summary["passed"], summary["failed"]) == (False, 0, ["passes", "raises"])


@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [
        (Limit(figure="a", least=1.0), 1.0, None),
        (Limit(figure="a", least=1.0), 0.99, "a is 0.99, where >= 1 is wanted"),
        (Limit(figure="a", least=0.8, most=1.2), 1.3, "a is 1.3, where >= 0.8 and <= 1.2 is wanted"),
        (Limit(figure="a", most=1.0), math.nan, "a is nan, where <= 1 is wanted"),
        (Limit(figure="a", most=1.0), None, "a is None, where <= 1 is wanted"),
    ],
)
def test_a_limit_holds_or_says_what_is_wanted(limit: Limit, value: float | None, reason: str | None) -> None:
    assert judged("c", "cpu", 1.0, Measured(figures={"a": value}, limits=(limit,))).reason == reason


def test_a_limit_on_a_figure_that_is_not_there_is_broken() -> None:
    assert not judged("c", "cpu", 1.0, Measured(figures={}, limits=(Limit(figure="a", most=1.0),))).ok


def test_a_result_is_one_line_of_strict_json() -> None:
    measured = Measured(
        figures={"share": math.nan, "ms": 1.23456789, "names": ("a", "b"), "tokens": 123_456, "peak": None},
        limits=(Limit(figure="ms", most=2.0),),
    )
    line = judged("head", "NVIDIA H100 80GB HBM3", 2.04, measured).to_json()
    assert json.loads(line, parse_constant=lambda _: pytest.fail("NaN is not JSON")) == {
        "check": "head",
        "ok": True,
        "device": "NVIDIA H100 80GB HBM3",
        "check_s": 2.0,
        "share": "nan",
        "ms": 1.235,
        "names": ["a", "b"],
        "tokens": 123_456,
        "peak": None,
        "limits": {"ms": "<= 2"},
    }


def test_a_result_survives_the_way_between_processes() -> None:
    measured = Measured(figures={"ms": 1.5, "peak": None}, limits=(Limit(figure="ms", most=2.0),))
    result = CheckResult(check="head", device="cpu", check_s=2.0, measured=measured, reason="because")
    assert decode(encode(result)) == result


def test_only_chooses_and_an_unknown_name_is_refused() -> None:
    assert [[check.name for check in group] for group in chosen(["publish", "stack"])] == [["stack"], ["publish"]]
    assert [check.name for group in chosen(()) for check in group] == list(CHECKS)
    with pytest.raises(UserError, match=r"there is no GPU check 'atention': set --only to one of stack, attention"):
        chosen(["atention"])


def test_a_device_that_cannot_be_meant_is_refused() -> None:
    with pytest.raises(UserError, match=r"--device is 'gpu': set it to one of cpu, cuda"):
        make_setting("gpu", is_tiny=False)
    with pytest.raises(UserError, match=r"--device cpu would take days at full scale: add --tiny"):
        make_setting("cpu", is_tiny=False)


def test_every_size_of_a_check_fits_its_model_and_its_batches() -> None:
    for scale in (FULL, TINY):
        shape = scale.shape
        assert shape.hidden % shape.heads == shape.heads % shape.kv_heads == 0
        assert scale.response_tokens < shape.context_tokens
        assert scale.sequences % 4 == scale.responses % 4 == scale.micro_batch_tokens % 4 == 0
        # On one rank the whole number of micro-batches is full.
        assert scale.sequences * (scale.micro_batch_tokens // 4) % scale.micro_batch_tokens == 0
