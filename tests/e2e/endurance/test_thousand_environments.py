"""A thousand healthy environments beside the hostile ones, all open at once."""

from __future__ import annotations

from doubles.environment_torture import torture


async def test_a_thousand_environments_are_unharmed_by_hostile_ones() -> None:
    report = await torture(healthy=1000)
    assert (report.wrong, report.late, report.unfair, report.left) == ([], [], [], [])
    print(f"1,000 healthy and the hostile environments, three turns each: {report.seconds:.1f} s")
