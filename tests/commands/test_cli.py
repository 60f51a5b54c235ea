"""A user's mistake is one sentence on standard error and exit code 2, before anything starts."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from doubles.command_line import call

from actors import cli
from actors.bench.lines import BenchLine, compare
from maspo_dist import __version__
from maspo_dist.errors import WeightSyncError

ROOT = Path(__file__).parents[2]
SMOKE = str(ROOT / "configs/local_smoke.yaml")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`maspo-dist ARGUMENTS…` as a process of its own."""
    command = [sys.executable, "-m", "actors.cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=ROOT, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["configs/local_smok.yaml"], "configs/local_smok.yaml does not exist"),
        ([SMOKE, "rolout.workers=3"], "did you mean rollout?"),
        ([SMOKE, "algorithm.mini_batches=1"], "the ratio is exactly 1"),
        ([SMOKE, "model.path=./nowhere/model"], "model.path ./nowhere/model does not exist"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments: list[str], fragment: str) -> None:
    result = call("train", *arguments)
    assert result.returncode == 2
    assert fragment in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["eval", "--model", "./nowhere/model", "--data", "x.jsonl"], "model.path ./nowhere/model does not exist"),
        (["compare", SMOKE], "nothing to compare: give --vary"),
        (
            ["demo", "--task", "rout"],
            "'--task': 'rout' is not one of 'addition', 'route', 'calculator'; see maspo-dist demo --help",
        ),
        (["demo", "--tusk", "route"], "No such option: --tusk (Possible options: --task); see maspo-dist demo --help"),
        (["plan"], "Missing argument 'config'; see maspo-dist plan --help"),
    ],
)
def test_a_mistake_in_another_command_is_one_sentence_too(arguments: list[str], fragment: str) -> None:
    result = call(*arguments)
    assert result.returncode == 2
    assert fragment in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_run_that_fails_is_one_line_and_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise WeightSyncError("rollout worker 0 does not hold policy version 0")

    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr("actors.commands.training.train", fail)
    result = call("train", SMOKE, f"model.path={tmp_path}")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "WeightSyncError: rollout worker 0 does not hold policy version 0\n"


def test_the_command_ends_its_process_with_the_exit_code_and_the_sentence() -> None:
    result = run("train", "configs/local_smok.yaml")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: config file configs/local_smok.yaml does not exist")
    assert result.stderr.count("\n") == 1


def test_an_unknown_bench_is_refused_with_the_known_ones() -> None:
    result = call("bench", "learners")
    assert result.returncode == 2
    assert result.stderr == f"error: there is no bench 'learners': choose one of {', '.join(cli.BENCHES)}\n"
    assert result.stdout == ""


@pytest.mark.parametrize("name", cli.BENCHES)
def test_every_bench_that_is_listed_exists(name: str) -> None:
    assert find_spec(f"actors.bench.{name.replace('-', '_')}") is not None


def test_a_bench_prints_one_object_per_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def two_lines() -> Iterator[BenchLine]:
        yield compare("two", "fast", 3.0, "s", 1.5)
        yield compare("two", "slow", 1.0, "s", 4.0)

    monkeypatch.setattr(cli, "BENCHES", ("two-lines",))
    monkeypatch.setitem(sys.modules, "actors.bench.two_lines", SimpleNamespace(run=two_lines))
    cli.bench("two-lines")
    fast, slow = map(json.loads, capsys.readouterr().out.splitlines())
    assert fast == {"bench": "two", "case": "fast", "value": 3.0, "unit": "s", "against": 1.5, "ratio": 2.0}
    assert slow["ratio"] == 0.25


def test_metrics_explains_every_metric_and_event() -> None:
    result = call("metrics")
    assert result.returncode == 0
    assert "unverifiable_share" in result.stdout
    assert "worker_recovered" in result.stdout


def test_a_terminal_that_knows_ascii_only_shows_codes_instead() -> None:
    result = run("metrics", PYTHONIOENCODING="ascii")
    assert result.returncode == 0
    assert "\\u" in result.stdout
    assert result.stdout.isascii()


def test_the_version_is_printed() -> None:
    result = call("--version")
    assert (result.returncode, result.stdout) == (0, f"maspo-dist {__version__}\n")
