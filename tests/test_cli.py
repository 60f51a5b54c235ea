"""A user's mistake is one sentence on standard error and exit code 2, before anything starts."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "maspo_dist.cli", *arguments], capture_output=True, text=True, timeout=120, cwd=ROOT
    )


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["configs/local_smok.yaml"], "configs/local_smok.yaml does not exist"),
        (["configs/local_smoke.yaml", "rolout.workers=3"], "did you mean rollout?"),
        (["configs/local_smoke.yaml", "algorithm.mini_batches=1"], "the ratio is exactly 1"),
        (["configs/local_smoke.yaml", "model.path=./nowhere/model"], "model.path ./nowhere/model does not exist"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments: list[str], fragment: str) -> None:
    result = run("train", *arguments)
    assert result.returncode == 2
    assert fragment in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["eval", "--model", "./nowhere/model", "--data", "x.jsonl"], "model.path ./nowhere/model does not exist"),
        (["compare", "configs/local_smoke.yaml"], "nothing to compare: give --vary"),
    ],
)
def test_a_mistake_in_another_command_is_one_sentence_too(arguments: list[str], fragment: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert fragment in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
