"""`status` and `report` read the whole folder that the bench makes."""

from __future__ import annotations

from pathlib import Path

from actors.bench.run_folder import write_long_run
from maspo_dist.runs.catalogue import METRICS, find_metric
from maspo_dist.runs.folder import RunFolder
from maspo_dist.views.report import write_report
from maspo_dist.views.report.runs import read_run


def test_a_made_run_holds_every_metric_and_every_group(tmp_path: Path) -> None:
    numbers = write_long_run(tmp_path / "long", steps=6, groups_per_step=5)
    folder = RunFolder.open_for_reading(tmp_path / "long")
    rows = list(folder.read_metrics())
    assert [row["step"] for row in rows] == list(range(7))
    assert sum(len(row) - 1 for row in rows) == numbers
    assert {find_metric(name) for row in rows for name in row if name != "step"} == set(METRICS)
    assert folder.ledger_counts().total() == 30
    assert folder.read_progress().step == 6
    write_report([folder.path], folder.report_path)
    assert read_run(folder.path).progress.scores.keys() == {"aime24", "math500"}
