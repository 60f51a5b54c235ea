"""The run folder: files of whole lines, one writer, and a rewind."""

from __future__ import annotations

import errno
import json
import math
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from maspo_dist.errors import ConfigError, DataError
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.jsonl import JsonLog, read_rows, sample_rows, tail_rows
from maspo_dist.runs.progress import progress_of
from maspo_dist.runs.rows import Event, SampleRow
from maspo_dist.runs.step_folders import StepFolders
from maspo_dist.types import GroupOutcome, LedgerRow


def sample(step: int, response: str = "5", reward: float = 1.0) -> SampleRow:
    return SampleRow(
        step=step,
        group_id=step,
        prompt_id=f"p{step}",
        source="demo",
        prompt="2+3=",
        response=response,
        reference="5",
        reward=reward,
        status="correct",
        extracted="5",
        seconds=0.01,
        reason="",
        finish_reason="stop",
    )


@pytest.mark.parametrize("tail", [b'{"step": 2, "rew', b"\x00" * 70_000, b'{"step": 2}'])
def test_a_torn_last_line_is_skipped_by_readers_and_cut_by_the_next_writer(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"step": 0}\n{"step": 1}\n' + tail)
    assert [row["step"] for row in read_rows(path)] == [0, 1]
    assert tail_rows(path)[-1] == {"step": 1}

    log = JsonLog(path)
    log.append([{"step": 2}])
    log.close()
    assert path.read_bytes() == b'{"step": 0}\n{"step": 1}\n{"step": 2}\n'


def test_a_file_that_is_only_a_torn_line_counts_as_empty(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"step": 0')
    assert list(read_rows(path)) == []
    assert tail_rows(path) == []
    with closing(JsonLog(path)) as log:
        log.append([{"step": 1}])
    assert tail_rows(path)[-1] == {"step": 1}


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"step": 0}\nnonsense\n{"step": 2}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl, line 2: not a JSON object"):
        list(read_rows(path))


def test_a_row_without_a_key_that_its_reader_needs_is_named_wherever_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"step": 0}\n{"stp": 1}\n{"step": 2}\n')
    wanted = r"rows\.jsonl, line 2: the row has no 'step'; remove the line to go on"
    with pytest.raises(DataError, match=wanted):
        list(read_rows(path, keys=["step"]))
    with pytest.raises(DataError, match=wanted):
        list(sample_rows(path, 1, b"eval", ["step"]))
    with pytest.raises(DataError, match=wanted):
        tail_rows(path, 25, ["step"])
    assert [len(row) for row in read_rows(path)] == [1, 1, 1]


@pytest.mark.parametrize("damaged", [1, 3999])
def test_a_damaged_row_of_a_long_run_is_named_by_its_line(folder: RunFolder, damaged: int) -> None:
    with closing(JsonLog(folder.metrics_path)) as log:
        log.append({"step" if step != damaged else "stp": step, "a/text": "x" * 900} for step in range(4000))
    with pytest.raises(DataError, match=rf"metrics\.jsonl, line {damaged + 1}: the row has no 'step'"):
        folder.read_progress()


def test_rows_are_readable_as_soon_as_append_returns(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with closing(JsonLog(path)) as log:
        for step in range(3):
            log.append([{"step": step}])
            assert tail_rows(path)[-1] == {"step": step}


def test_the_last_row_may_be_longer_than_the_tail_that_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with closing(JsonLog(path)) as log:
        log.append([{"text": "a"}, {"text": "b" * 200_000}])
    row = tail_rows(path, 1 << 16)[-1]
    assert len(row["text"]) == 200_000


@pytest.mark.parametrize("text", ["line\nbreak\u2028\x85\x00", "half a pair: \ud83d", "∑ 数学"])
def test_any_response_survives_the_round_trip(folder: RunFolder, text: str) -> None:
    folder.write_samples([sample(1, response=text)])
    assert [row["response"] for row in folder.read_samples()] == [text]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """Under a file size limit, a write fails halfway as it does on a full disk."""
    script = """
import resource, signal, sys
from pathlib import Path
from maspo_dist.runs.jsonl import JsonLog
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
log = JsonLog(Path(sys.argv[1]))
log.append([{"step": 0}])
try:
    log.append([{"text": "x" * 5000}])
except OSError:
    log.append([{"step": 1}])
"""
    path = tmp_path / "rows.jsonl"
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=60)
    assert path.read_bytes() == b'{"step": 0}\n{"step": 1}\n'


def test_rows_that_a_full_disk_refuses_are_written_in_order_once_it_has_room(tmp_path: Path) -> None:
    """A write fails halfway, under a file size limit."""
    script = """
import resource, signal, sys
from dataclasses import asdict
from pathlib import Path
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.rows import Event
from maspo_dist.types import GroupOutcome, LedgerRow

def row(group_id):
    return LedgerRow(group_id=group_id, prompt_id="x" * 100, step=group_id, outcome="trained", reason="")

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
with RunFolder.create(Path(sys.argv[1])) as folder:
    folder.write_ledger([row(0), row(1)])
    folder.write_event(Event(kind="stop", message="m" * 100, time=0.0))
    limit(folder.ledger_path.stat().st_size + 250)
    folder.write_ledger([row(2), row(3)])
    folder.write_ledger([row(4)])
    folder.write_event(Event(kind="stop", message="m" * 1000, time=1.0))
    print(folder.sync(), len(list(folder.read_ledger())), flush=True)
    limit(unlimited)
    folder.write_ledger([row(5)])
    print(folder.sync(), len(list(folder.read_ledger())), flush=True)
"""
    path = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], check=True, timeout=60, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["ledger.jsonl cannot be written 2", "None 6"]
    warned = [line for line in done.stderr.splitlines() if "ledger.jsonl cannot be written, its rows wait" in line]
    assert len(warned) == 1
    folder = RunFolder(path)
    assert [row["group_id"] for row in folder.read_ledger()] == [0, 1, 2, 3, 4, 5]
    assert [row["time"] for row in folder.read_events()] == [0.0, 1.0]


def test_a_used_folder_is_refused_with_the_fix(tmp_path: Path) -> None:
    path = tmp_path / "run"
    folder = RunFolder.create(path)
    folder.write_metrics(0, {"eval/add/avg@1": 0.3})
    folder.close()
    with pytest.raises(ConfigError, match=r"exists already: choose another run\.name, or set checkpoint\.resume=auto"):
        RunFolder.create(path)


def test_the_folder_of_a_run_that_never_trained_is_reused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    first = RunFolder.create(path)
    first.write_event(Event(kind="start", message="engines did not start"))
    first.write_ledger([LedgerRow(group_id=0, prompt_id="a", step=1, outcome="pending", reason="")])
    first.close()
    with RunFolder.create(path) as second:
        second.write_config("second: true\n")
        assert path.joinpath("config.yaml").read_text() == "second: true\n"
        assert list(second.read_ledger()) == []
        assert [row["kind"] for row in second.read_events()] == ["start"]


def test_a_folder_in_use_by_another_process_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    script = (
        "import sys; from pathlib import Path; from maspo_dist.runs.folder import RunFolder\n"
        "folder = RunFolder.create(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        half = StepFolders(path / "checkpoints").begin(1)
        with pytest.raises(ConfigError, match="is in use by a running job"):
            RunFolder.resume(path)
        assert half.exists()
        holder.kill()
    RunFolder.resume(path).close()


def test_a_folder_that_cannot_be_made_names_the_key(tmp_path: Path) -> None:
    tmp_path.joinpath("file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written \(.*\): set run\.dir"):
        RunFolder.create(tmp_path / "file" / "run")


def test_rewind_removes_later_steps_and_pending_groups(folder: RunFolder) -> None:
    for step in range(5):
        folder.write_metrics(step, {"reward/mean": step / 10})
        folder.write_samples([sample(step)])
        folder.write_ledger([LedgerRow(group_id=step, prompt_id=f"p{step}", step=step, outcome="trained", reason="")])
    folder.write_ledger([LedgerRow(group_id=9, prompt_id="p9", step=2, outcome="pending", reason="run ended")])
    folder.write_event(Event(kind="stop", message="SIGTERM"))
    folder.close()

    with RunFolder.resume(folder.path) as resumed:
        assert resumed.rewind(2) == 2
        assert [row["step"] for row in resumed.read_metrics()] == [0, 1, 2]
        assert [row["step"] for row in resumed.read_samples()] == [0, 1, 2]
        assert [row["group_id"] for row in resumed.read_ledger()] == [0, 1, 2]
        assert len(list(resumed.read_events())) == 1
        resumed.write_metrics(3, {"reward/mean": 0.3})
        assert tail_rows(resumed.metrics_path)[-1] == {"step": 3, "reward/mean": 0.3}


def test_rewind_reads_no_rows_of_earlier_steps(folder: RunFolder) -> None:
    """The samples of a week take gigabytes. Here, earlier lines are no JSON, so reading them would fail."""
    folder.samples_path.write_bytes(b"nonsense\n" * 100_000)
    for step in (1, 2, 3):
        folder.write_samples([sample(step)])
    folder.rewind(2)
    folder.write_samples([sample(3)])
    assert [row["step"] for row in tail_rows(folder.samples_path, 700)] == [2, 3]
    assert folder.samples_path.read_bytes().startswith(b"nonsense\n" * 100_000 + b'{"step": 1')


def test_rows_that_wait_for_the_disk_are_rewound_too(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(log: JsonLog, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def ledger_row(step: int, outcome: GroupOutcome = "trained") -> LedgerRow:
        return LedgerRow(group_id=step, prompt_id=f"p{step}", step=step, outcome=outcome, reason="")

    folder.write_ledger([ledger_row(1)])
    with monkeypatch.context() as patch:
        patch.setattr(JsonLog, "_write", full)
        folder.write_ledger([ledger_row(2), ledger_row(3), ledger_row(2, "pending")])
        folder.rewind(2)
    folder.write_ledger([ledger_row(3)])
    assert [(row["step"], row["outcome"]) for row in folder.read_ledger()] == [(step, "trained") for step in (1, 2, 3)]


def test_the_scores_of_a_step_are_a_separate_line_and_are_read_with_the_step(folder: RunFolder) -> None:
    folder.write_metrics(1, {"reward/mean": 0.1})
    assert not folder.is_scored(1)
    folder.write_metrics(1, {"eval/add/avg@1": 0.5, "time/evaluate_s": 2.0})
    folder.write_metrics(2, {"reward/mean": 0.2})
    assert folder.is_scored(1)
    assert not folder.is_scored(2)
    assert [row["step"] for row in read_rows(folder.metrics_path)] == [1, 1, 2]
    assert list(folder.read_metrics()) == [
        {"step": 1, "reward/mean": 0.1, "eval/add/avg@1": 0.5, "time/evaluate_s": 2.0},
        {"step": 2, "reward/mean": 0.2},
    ]


def test_a_number_of_a_step_is_written_once(folder: RunFolder) -> None:
    folder.write_metrics(1, {"reward/mean": 0.1})
    folder.write_metrics(1, {"eval/add/avg@1": 0.5})
    with pytest.raises(ValueError, match="step 1 after those of step 1"):
        folder.write_metrics(1, {"reward/mean": 0.1})
    folder.close()
    with RunFolder.resume(folder.path) as resumed:
        with pytest.raises(ValueError, match="step 0 after those of step 1"):
            resumed.write_metrics(0, {})
        with pytest.raises(ValueError, match="step 1 after those of step 1"):
            resumed.write_metrics(1, {"reward/mean": 0.1})


def test_groups_are_counted_by_outcome_and_reason(folder: RunFolder) -> None:
    with closing(JsonLog(folder.ledger_path)) as log:
        log.append([{"outcome": "dropped", "reason": "all rewards equal 0"}] * 3)
        log.append([{"outcome": "trained", "reason": None}])
    assert folder.ledger_counts() == {("dropped", "all rewards equal 0"): 3, ("trained", ""): 1}


@pytest.mark.parametrize("block_bytes", [10, 1000])
@pytest.mark.parametrize("order", [("step", "outcome", "reason"), ("outcome", "reason", "step")])
def test_groups_of_a_long_ledger_are_counted_whatever_the_order_of_its_keys(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, order: tuple[str, ...], block_bytes: int
) -> None:
    monkeypatch.setattr("maspo_dist.runs.jsonl._BLOCK_BYTES", block_bytes)
    endings = (
        ("trained", ""),
        ("trained", ""),
        ("dropped", 'a "quoted" \\ reason'),
        ("dropped", "é"),
        ("pending", None),
    )
    rows = [
        dict(zip(("outcome", "reason"), endings[step % 5 if step < 900 else 0], strict=True)) for step in range(1000)
    ]
    with closing(JsonLog(folder.ledger_path)) as log:
        log.append({key: {"step": step, **row}[key] for key in order} for step, row in enumerate(rows))
    assert folder.ledger_counts() == Counter((row["outcome"], row["reason"] or "") for row in rows)
    with folder.ledger_path.open("a") as file:
        file.write('{"step": 1000, "outcome": "late"}\n')
    assert folder.ledger_counts()["late", ""] == 1


def test_a_prompt_id_that_looks_like_an_outcome_is_not_counted_as_one(folder: RunFolder) -> None:
    rows = [
        LedgerRow(group_id=i, prompt_id=f'"outcome": "{i}', step=i, outcome="trained", reason="\ud83d")
        for i in range(3)
    ]
    folder.write_ledger(rows)
    with folder.ledger_path.open("a") as file:
        file.write('{"outcome": "tor')
    assert folder.ledger_counts() == {("trained", "\ud83d"): 3}
    folder.ledger_path.write_text('{"a": {"outcome": "lost"}, "outcome": "late"}\n')
    assert folder.ledger_counts() == {("late", ""): 1}


@pytest.mark.parametrize("many_ends", [False, True])
@pytest.mark.parametrize(
    ("damaged", "what"),
    [
        ("nonsense", "not a JSON object"),
        ('{"group_id": 1}', "the row has no 'outcome'"),
        ('{"a": {"outcome": "trained"}}', "the row has no 'outcome'"),
    ],
)
def test_a_damaged_row_of_the_ledger_is_named_by_its_line(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, damaged: str, what: str, many_ends: bool
) -> None:
    if many_ends:
        monkeypatch.setattr("maspo_dist.runs.jsonl._MOST_ENDS", 0)
    folder.ledger_path.write_text(f'{{"outcome": "trained", "reason": ""}}\n{damaged}\n')
    with pytest.raises(DataError, match=rf"ledger\.jsonl, line 2: {what}; remove the line to go on"):
        folder.ledger_counts()


def test_progress_of_a_long_run_is_read_from_few_rows_and_equals_that_of_all_rows(folder: RunFolder) -> None:
    with closing(JsonLog(folder.metrics_path)) as log:
        for step in range(4000):
            row = {"step": step, "reward/mean": step / 4000, "time/step_s": 2.0 + step % 3, "a/text": "x" * 900}
            scores = {"step": step, f"eval/set{step // 1000}/avg@1": step / 8000} if step % 100 == 0 else {}
            log.append([row, scores] if scores else [row])
    progress = folder.read_progress()
    assert progress == progress_of(folder.read_metrics(), 0)
    assert list(progress.scores) == ["set0", "set1", "set2", "set3"]
    read = [row["step"] for row in read_rows(folder.metrics_path, b'"eval/')]
    assert 2000 < len(read) < 2500, "two megabytes, and the rows with scores"


def test_an_event_is_one_flat_row(folder: RunFolder) -> None:
    details = (("worker", "rollout-1"), ("lost_tokens", 120), ("recovery_s", math.nan))
    folder.write_event(Event(kind="worker_lost", message="rollout-1 died", details=details, time=5.0))
    assert json.loads(folder.events_path.read_text()) == {
        "time": 5.0,
        "kind": "worker_lost",
        "message": "rollout-1 died",
        "worker": "rollout-1",
        "lost_tokens": 120,
        "recovery_s": None,
    }
    with pytest.raises(ValueError, match="cannot be called time"):
        Event(kind="x", message="", details=(("time", 1.0),))


def test_a_run_folder_has_a_name_and_paths(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert folder.checkpoints_path == tmp_path / "run" / "checkpoints"
    assert folder.name == "run"
    with pytest.raises(ConfigError, match="is not a run folder"):
        RunFolder.open_for_reading(tmp_path / "run")


def test_the_configuration_is_read_back_as_plain_values(folder: RunFolder) -> None:
    folder.config_path.write_text("run: {max_steps: 3}\n")
    assert folder.read_config() == {"run": {"max_steps": 3}}
    folder.config_path.unlink()
    assert folder.read_config() == {}


@pytest.mark.parametrize(
    ("content", "mistake"),
    [
        (b"run:\n  seed: [", ", line 2 cannot be read as YAML (expected the node content, but found '<stream end>')"),
        (b"run:\n\tname: x\n", ", line 2 cannot be read as YAML (found character '\\t' that cannot start any token)"),
        (b"run: \0", " cannot be read as YAML (unacceptable character #x0000: special characters are not allowed)"),
        (b"date: 2026-02-30", " cannot be read as YAML (day is out of range for month)"),
        (b"run: {name: \xe9}", " is not UTF-8"),
        (b"", " is empty"),
        (b"# no more\n", " is empty"),
        (b"- run\n", " holds no sections"),
    ],
)
def test_a_damaged_configuration_is_one_sentence(folder: RunFolder, content: bytes, mistake: str) -> None:
    folder.config_path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        folder.read_config()
    assert str(caught.value) == f"{folder.config_path}{mistake}: restore it, or remove it to go on without it"


def test_the_next_start_clears_half_written_saves_of_a_killed_run(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run") as killed:
        killed.write_metrics(1, {"reward/mean": 0.5})
        for parent, step in ((killed.checkpoints_path, 2), (killed.steps_path, 3)):
            (StepFolders(parent).begin(step) / "weights.bin").write_bytes(b"half")
        halves = list(killed.path.rglob(".part-*"))
        assert len(halves) == 2
    with RunFolder.resume(killed.path):
        assert not any(path.exists() for path in halves)
