"""`maspo-dist eval` with real Ray and vLLM, on the demo as its warm start left it."""

from __future__ import annotations

import json
from pathlib import Path

from doubles.command_line import call
from doubles.live_run import command

from maspo_dist.demo import DemoFiles


def evaluation(demo: DemoFiles, to: Path) -> tuple[str, ...]:
    """The command that scores the demo greedily on both of its sets."""
    data = ("--data", str(demo.heldout), "--data", f"seen={demo.train}")
    return (
        *("eval", "--model", str(demo.model), "--to", str(to), *data),
        *("--dtype", "float32", "--max-response-tokens", "20"),
    )


def test_a_model_is_scored_on_two_sets_in_one_start_and_again_without_any(tiny_demo: DemoFiles, tmp_path: Path) -> None:
    out = tmp_path / "out"
    screen = command(*evaluation(tiny_demo, out))
    assert "mean over sets" in screen
    results = json.loads((out / "results.json").read_text())["sets"]
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    # The warm start measured the same model with plain transformers.
    assert results["heldout"]["avg@1"]["value"] == tiny_demo.start_accuracy
    assert results["seen"]["problems"] == sum(row["set"] == "seen" for row in samples) == 32
    for row in samples:
        assert (row["status"] == "correct") == row["response"].endswith(f"\\boxed{{{row['reference']}}}")
    right = [row["status"] == "correct" for row in samples if row["set"] == "seen"]
    assert results["seen"]["avg@1"]["value"] == sum(right) / 32 > 0
    logs = {path.name: path.stat().st_mtime_ns for path in (out / "logs").glob("evaluation-*")}
    assert len(logs) == 1
    again = call(*evaluation(tiny_demo, out))
    assert (again.returncode, again.stdout) == (0, screen), again.stderr
    assert f"all 40 problems are in {out} already: nothing is sampled" in again.stderr
    assert {path.name: path.stat().st_mtime_ns for path in (out / "logs").glob("evaluation-*")} == logs
