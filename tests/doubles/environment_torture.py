"""Plays hostile environments among healthy ones, all open at once, and says what was not as promised."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import psutil

from doubles.own_environments import MARKER
from maspo_dist.config import EnvironmentConfig
from maspo_dist.environments.host import ForkedEnvironments
from maspo_dist.environments.protocol import Step, Task
from maspo_dist.errors import EnvironmentFailedError

STEP_S = 4.0
#: Seconds beyond the deadline: the event loop serves all sessions, on a busy machine.
_SLACK_S = 3.0

#: How each hostile response must end: a status, or the observation. `*` stands for any text.
HOSTILE: dict[str, set[str]] = {
    "spin": {"timeout"},
    "spin-in-c": {"timeout", "error"},
    "ignore-signals": {"timeout"},
    "children": {"timeout"},
    "children-and-exit": {"error"},
    "daemon": {"timeout"},
    "forks": {"timeout"},
    "allocate": {"error"},
    # Megabyte by megabyte: on a busy machine its time may be over before its memory is.
    "grow": {"error", "timeout"},
    "exit": {"error"},
    "sys-exit": {"error"},
    "segfault": {"error"},
    "kill-itself": {"error"},
    "close-everything": {"error"},
    "garble": {"error"},
    "flood": {"error", "timeout"},
    "raise": {"error"},
    "recurse": {"error"},
    "no-step": {"error"},
    "no-number": {"error"},
    "bytes": {"error"},
    "megabyte": {"start *", "* characters left out *", "* end"},
    "binary": {"\x00\x01 ?? é"},
    "print": {"ok *"},
    "secrets": {""},
}


@dataclass
class Report:
    """What went wrong, and the seconds that healthy sessions took for their turns."""

    wrong: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    unfair: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    seconds: float = 0.0


async def torture(healthy: int) -> Report:
    """Every hostile response in a session of its own, among `healthy` sessions of three turns; all are open at once."""
    report = Report()
    config = EnvironmentConfig(
        kind="python:doubles.own_environments:Hostile",
        step_timeout_s=STEP_S,
        memory_mb=256,
        max_observation_tokens=256,
        processes=healthy + 2 * len(HOSTILE),
    )
    host = ForkedEnvironments(config, quiet_s=60.0, start_timeout_s=60.0)
    all_open = asyncio.Event()
    try:
        await host.start()
        sessions = [asyncio.create_task(_healthy(host, number, all_open, report)) for number in range(healthy)]
        sessions += [asyncio.create_task(_hostile(host, name, all_open, report)) for name in HOSTILE]
        sessions.append(asyncio.create_task(_hangs_in_reset(host, all_open, report)))
        await asyncio.sleep(0)
        started = time.monotonic()
        while host.opened < healthy + len(HOSTILE):  # noqa: ASYNC110 (the host sets no event)
            await asyncio.sleep(0.02)
        all_open.set()
        await asyncio.gather(*sessions)
        report.seconds = time.monotonic() - started
        # What ended sessions left is found within a second; nobody may have to wait for the end of the host.
        report.left = await _left_behind()
    finally:
        await host.aclose()
    return report


async def _healthy(host: ForkedEnvironments, number: int, all_open: asyncio.Event, report: Report) -> None:
    reference = f"secret-{number}"
    try:
        session = await host.open(Task(prompt_id=f"p{number}", reference=reference, source="", seed=number))
        await all_open.wait()
        for _ in range(3):
            step = await session.step("hello")
            if step != Step(observation=f"ok {reference}", reward=1.0):
                report.unfair.append(f"{number}: {step}")
        await session.close()
    except EnvironmentFailedError as error:
        report.unfair.append(f"{number}: {error}")


async def _hostile(host: ForkedEnvironments, name: str, all_open: asyncio.Event, report: Report) -> None:
    session = await host.open(Task(prompt_id=name, reference=f"secret-{name}", source="", seed=0))
    await all_open.wait()
    await asyncio.sleep(0.1)
    started = time.monotonic()
    try:
        step = await session.step(name)
    except EnvironmentFailedError as error:
        if error.status not in HOSTILE[name]:
            report.wrong.append(f"{name}: {error.status} ({error})")
        if "\n" in error.reason or len(error.reason) > 500:
            report.wrong.append(f"{name}: a reason of more than a line")
    else:
        if not all(_is_like(step.observation, text) for text in HOSTILE[name]):
            report.wrong.append(f"{name}: {step.observation[:100]!r}")
    await session.close()
    if (seconds := time.monotonic() - started) > STEP_S + _SLACK_S:
        report.late.append(f"{name}: {seconds:.1f} s")


async def _hangs_in_reset(host: ForkedEnvironments, all_open: asyncio.Event, report: Report) -> None:
    # Before, it would wait for the forks of all others.
    await all_open.wait()
    started = time.monotonic()
    try:
        await host.open(Task(prompt_id="reset", reference="hang in reset", source="", seed=0))
        report.wrong.append("reset: it answered")
    except EnvironmentFailedError as error:
        if error.status != "timeout":
            report.wrong.append(f"reset: {error.status} ({error})")
    if (seconds := time.monotonic() - started) > STEP_S + 2 * _SLACK_S:
        report.late.append(f"reset: {seconds:.1f} s")


def _is_like(text: str, pattern: str) -> bool:
    head, _, tail = pattern.partition("*")
    if "*" in tail:
        return tail.rstrip("*") in text
    return text.startswith(head) and text.endswith(tail) if "*" in pattern else text == pattern


async def _left_behind() -> list[str]:
    give_up = time.monotonic() + 5
    while True:
        left = [p for p in psutil.process_iter(["cmdline"]) if MARKER in " ".join(p.info["cmdline"] or [])]
        if not left or time.monotonic() > give_up:
            return [str(process) for process in left]
        await asyncio.sleep(0.1)
