"""A user's mistake is one sentence on standard error and exit code 2, before anything starts."""

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from doubles.command_line import call
from doubles.run_folders import write_run

from actors import cli
from actors.bench.lines import BenchLine, compare
from actors.commands.exit_codes import explain
from maspo_dist import __version__
from maspo_dist.errors import WeightSyncError
from maspo_dist.runs.folder import RunFolder

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


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOENT, "name a path that exists"),
        (errno.EACCES, "ask its owner for permission, or name another path"),
        (errno.EPERM, "ask its owner for permission, or name another path"),
        (errno.EISDIR, "this path is a folder: name a file"),
    ],
)
def test_a_path_that_cannot_be_used_is_one_line_with_its_remedy(
    number: int, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(RunFolder, "open_for_reading", fail)
    result = call("status", "runs/theirs")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"error: {os.strerror(number)} (runs/theirs): {remedy}\n"


def test_a_file_in_the_place_of_a_folder_and_a_long_name_are_one_line_too(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    in_place = call("demo", str(file))
    assert in_place.returncode == 1
    assert in_place.stderr.startswith(f"error: Not a directory ({file}/")
    assert in_place.stderr.endswith("): a part of this path is a file: name another path\n")
    long = call("status", "x" * 300)
    assert long.returncode == 1
    assert long.stderr.endswith("): name a shorter path\n")


def test_a_file_error_that_names_no_path_keeps_its_traceback() -> None:
    with pytest.raises(FileNotFoundError):
        explain(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))


@pytest.mark.parametrize("command", ["report", "rescore"])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(command: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=2).path
    missing = call(command, str(run), "--to", f"{tmp_path}/missing/x.html")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr == (
        f"error: --to {tmp_path}/missing/x.html: there is no folder {tmp_path}/missing: make it, or name another file\n"
    )
    folder = call(command, str(run), "--to", str(tmp_path))
    assert (folder.returncode, folder.stdout) == (2, "")
    assert folder.stderr == f"error: --to {tmp_path} is a folder: name a file in it\n"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not (tmp_path.parent / f"{tmp_path.name}.part").exists()


@pytest.mark.parametrize(
    ("launcher", "said"),
    [
        ("nice -n '10", r"--launcher \"nice -n '10\" cannot be split into words \(No closing quotation\): correct its"),
        ("nic -n 10", "--launcher 'nic -n 10': no program 'nic' is on the PATH here: correct its name"),
    ],
)
def test_a_launcher_that_cannot_start_a_process_is_refused(launcher: str, said: str) -> None:
    result = call("compare", SMOKE, "--vary", "learner.lr=1e-4,2e-4", "--launcher", launcher)
    assert result.returncode == 2
    assert re.match(f"error: {said}", result.stderr)
    assert result.stderr.count("\n") == 1


def test_a_comparison_of_a_configuration_in_a_pipe_is_refused() -> None:
    reading, writing = os.pipe()
    os.write(writing, Path(SMOKE).read_bytes())
    os.close(writing)
    result = call("compare", f"/dev/fd/{reading}", "--vary", "learner.lr=1e-4,2e-4")
    os.close(reading)
    assert result.returncode == 2
    assert result.stderr == (
        f"error: config /dev/fd/{reading} is no regular file, and every run reads it again: save it to a file\n"
    )


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
