"""The samples of a run, scored again by another verifier."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from doubles.command_line import call

from maspo_dist.errors import DataError
from maspo_dist.reward import VerifierConfig
from maspo_dist.reward.rescore import rescore


def row(response: str, reference: str, status: str, **fields: Any) -> dict[str, Any]:
    reward = float(status == "correct")
    return {"step": 1, "response": response, "response_start": "", "reference": reference, "source": "s",
            "reward": reward, "scored_by": "verifier", "status": status, **fields}  # fmt: skip


ROWS = [
    row("\\boxed{0.5}", "\\frac12", "correct"),
    row("\\boxed{4}", "4", "wrong"),
    row("\\boxed{5}", "4", "correct"),
    row("\\boxed{6}", "4", "timeout"),
]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_new_verdict_stands_beside_the_old_one(tmp_path: Path) -> None:
    out = tmp_path / "again.jsonl"
    config = VerifierConfig(default="0.5*exact + 0.5*format", workers=1)

    summary = rescore(written(tmp_path / "samples.jsonl", ROWS), out, config)

    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["status_before"], r["status"]) for r in rows] == [
        ("correct", "wrong"), ("wrong", "correct"), ("correct", "wrong"), ("timeout", "wrong"),
    ]  # fmt: skip
    assert rows[1]["components"] == {"exact": 1.0, "format": 1.0}
    assert [r["reward"] for r in rows] == [0.5, 1.0, 0.5, 0.5]
    assert all(r["step"] == 1 and r["response"] for r in rows)
    assert (summary.samples, summary.agreed, summary.gained, summary.lost) == (4, 1, 1, 2)
    assert "4 samples: 1 as before, 1 now correct, 2 no longer" in str(summary)


def test_the_mean_rewards_are_over_the_samples_with_a_verdict(tmp_path: Path) -> None:
    rows = [row("\\boxed{4}", "4", "correct"), row("\\boxed{5}", "4", "wrong"), row("\\boxed{4}", "4", "timeout")]
    summary = rescore(
        written(tmp_path / "samples.jsonl", rows), tmp_path / "out.jsonl", VerifierConfig(default="exact", workers=1)
    )
    assert (summary.reward_before, summary.reward_after) == (1 / 2, 2 / 3)


def test_the_verifier_gets_the_reasoning_block_that_the_prompt_left_open(tmp_path: Path) -> None:
    thought = row("\\boxed{3} no</think>\\boxed{4}", "4", "correct", response_start="<think>Let me see.")
    unfinished = row("\\boxed{4}", "4", "wrong", response_start="<think>Let me see.")
    samples = written(tmp_path / "samples.jsonl", [thought, unfinished])
    summary = rescore(samples, tmp_path / "out.jsonl", VerifierConfig(default="math", workers=1))
    assert (summary.samples, summary.agreed) == (2, 2)


def test_samples_that_an_environment_scored_are_left_as_they_are(tmp_path: Path) -> None:
    played = row("I am done", "4", "correct", scored_by="environment")
    samples = written(tmp_path / "samples.jsonl", [played, row("\\boxed{4}", "4", "correct"), played])
    out = tmp_path / "out.jsonl"

    summary = rescore(samples, out, VerifierConfig(default="exact", workers=1))

    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [rows[0], rows[2]] == [played, played]
    assert rows[1]["status_before"] == "correct"
    assert (summary.samples, summary.agreed, summary.by_environment) == (1, 1, 2)
    assert str(summary).endswith("; 2 scored by an environment: left as they are")


def test_a_last_line_that_a_killed_run_left_is_skipped(tmp_path: Path) -> None:
    samples = written(tmp_path / "samples.jsonl", ROWS[:2])
    with samples.open("a") as file:
        file.write('{"step": 1, "resp')
    assert rescore(samples, tmp_path / "out.jsonl", VerifierConfig(default="exact", workers=1)).samples == 2


def test_more_rows_than_one_batch_keep_their_order(tmp_path: Path) -> None:
    samples = written(tmp_path / "samples.jsonl", [row(f"\\boxed{{{n}}}", "7", "wrong") for n in range(1100)])

    summary = rescore(samples, tmp_path / "out.jsonl", VerifierConfig(default="exact", workers=2))

    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [n for n, r in enumerate(rows) if r["status"] == "correct"] == [7]
    assert (summary.samples, summary.gained) == (1100, 1)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{\n", "line 1: not JSON"),
        ('{"response": "a"}\n', "line 1: no response_start, reference, source, reward, scored_by, status"),
        ("[]", "line 1: no response"),
    ],
)
def test_a_file_that_is_not_of_a_run_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    samples = tmp_path / "samples.jsonl"
    samples.write_text(text)

    with pytest.raises(DataError, match=sentence):
        rescore(samples, tmp_path / "out.jsonl", VerifierConfig(default="exact", workers=1))


def test_the_samples_themselves_are_never_written_over(tmp_path: Path) -> None:
    samples = written(tmp_path / "samples.jsonl", ROWS)

    with pytest.raises(DataError, match="give the new scores a file of their own"):
        rescore(samples, samples, VerifierConfig(default="exact", workers=1))


def test_the_command_takes_the_configuration_of_the_run_and_what_is_said_beside_it(tmp_path: Path) -> None:
    written(tmp_path / "samples.jsonl", ROWS)
    (tmp_path / "config.yaml").write_text(
        "run: {name: a, max_steps: 1}\nmodel: {path: m}\ndata: {train: [t.jsonl]}\n"
        "rollout: {prompts_per_step: 4, max_response_tokens: 8}\nreward: {default: math, workers: 1}\n"
    )

    by_math = call("rescore", str(tmp_path))
    assert by_math.returncode == 0, by_math.stderr
    assert "4 samples: 2 as before, 1 now correct, 1 no longer, 0 unverifiable" in by_math.stdout
    assert len((tmp_path / "samples-rescored.jsonl").read_text().splitlines()) == 4

    exact = call("rescore", str(tmp_path), "reward.default=exact", "--to", str(tmp_path / "exact.jsonl"))
    assert "1 as before, 1 now correct, 2 no longer" in exact.stdout

    unknown = call("rescore", str(tmp_path), "reward.default=exakt")
    assert (unknown.returncode, "did you mean exact?" in unknown.stderr) == (2, True)
