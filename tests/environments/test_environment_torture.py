"""Hostile environments among healthy ones: each ends by its deadline, alone, and leaves nothing."""

from __future__ import annotations

from doubles.environment_torture import torture


async def test_hostile_environments_end_by_their_deadline_and_harm_no_other() -> None:
    report = await torture(healthy=100)
    assert (report.wrong, report.late, report.unfair, report.left) == ([], [], [], [])
