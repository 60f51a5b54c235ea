"""A lane trains run after run in one process, which ends with the process that started it."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from maspo_dist.compare.lane import Lane, last_line
from maspo_dist.compare.plan import PlannedRun, make_plan
from maspo_dist.compare.run import run_all
from maspo_dist.config import CompareConfig

SMOKE = Path(__file__).parents[2] / "configs" / "local_smoke.yaml"

#: Answers each run with the exit code that its override names, and logs the run's configuration and its own pid.
ANSWERS = """
import json, os, pathlib, sys
for line in sys.stdin:
    order = json.loads(line)
    code = int(order["overrides"][0])
    pathlib.Path(order["log"]).write_text(f"{order['config']}\\n{os.getpid()}\\n")
    if code < 0:
        os.kill(os.getpid(), -code)
    print(code, flush=True)
    if code:
        break
"""
#: Writes its pid to a pipe, then waits for a signal.
WAITS = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(600)"


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def waiting(pipe: Path) -> list[str]:
    return [sys.executable, "-c", WAITS, str(pipe)]


def process_in(pipe: Path) -> psutil.Process:
    """Blocks until a child has written its pid."""
    return psutil.Process(int(pipe.read_text()))


async def trained(lane: Lane, codes: list[int], folder: Path) -> tuple[list[int], list[str]]:
    """The exit code of each run, and the process that ran it."""
    logs = [folder / "logs" / f"{number}.log" for number in range(len(codes))]
    seen = [await lane.train(Path("c.yaml"), [str(code)], log) for code, log in zip(codes, logs, strict=True)]
    await lane.close()
    return seen, [last_line(log) for log in logs]


async def test_one_process_trains_run_after_run_and_each_has_its_own_log(tmp_path: Path) -> None:
    codes, processes = await trained(Lane([sys.executable, "-c", ANSWERS]), [0, 0, 0], tmp_path)
    assert codes == [0, 0, 0]
    assert len(set(processes)) == 1
    assert not psutil.pid_exists(int(processes[0]))
    assert (tmp_path / "logs" / "2.log").read_text().startswith("c.yaml\n")
    assert last_line(tmp_path / "none.log") == ""


async def test_a_run_that_fails_or_is_killed_costs_that_run_only(tmp_path: Path) -> None:
    codes, processes = await trained(Lane([sys.executable, "-c", ANSWERS]), [0, 3, 0, -9, 0], tmp_path)
    assert codes == [0, 3, 0, -9, 0]
    first, failed, second, killed, third = processes
    assert first == failed
    assert second == killed
    assert len({first, second, third}) == 3


async def test_a_process_that_does_not_start_says_why_in_the_log_of_the_run(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    assert await Lane([sys.executable, "-c", "raise SystemExit('no room')"]).train(Path("c.yaml"), [], log) == 1
    assert last_line(log) == "no room"


async def test_cancelling_ends_the_process(tmp_path: Path, pipe: Path) -> None:
    task = asyncio.create_task(Lane(waiting(pipe)).train(Path("c.yaml"), [], tmp_path / "run.log"))
    process = await asyncio.to_thread(process_in, pipe)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not process.is_running()


async def test_cancelling_a_comparison_waits_until_every_run_has_saved_and_ended(tmp_path: Path, pipe: Path) -> None:
    saves = (
        "import os, pathlib, signal, sys\ndef save(*_):\n    pathlib.Path(sys.argv[2]).touch()\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, save)\npathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\nsignal.pause()"
    )
    run = make_plan(CompareConfig(name="c", config="", seeds="0", variants={"maspo": []}), SMOKE).runs[0]
    saved = tmp_path / "saved"
    lane = Lane([sys.executable, "-c", saves, str(pipe), str(saved)])

    async def run_one(run: PlannedRun) -> None:
        await lane.train(run.base, run.overrides, tmp_path / "run.log")

    task = asyncio.create_task(run_all([run], 1, run_one))
    process = await asyncio.to_thread(process_in, pipe)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert saved.exists()
    assert not process.is_running()


async def test_a_grandchild_ends_with_the_command(tmp_path: Path, pipe: Path) -> None:
    code = f"import subprocess; subprocess.Popen({waiting(pipe)!r}).wait()"
    lane = Lane([sys.executable, "-c", code])
    task = asyncio.create_task(lane.train(Path("c.yaml"), [], tmp_path / "run.log"))
    child = await asyncio.to_thread(process_in, pipe)
    # Only the leader of the session is killed.
    os.kill(child.ppid(), signal.SIGKILL)
    assert await task == -signal.SIGKILL
    await asyncio.to_thread(child.wait, 30)


def test_a_process_ends_when_its_parent_is_killed(tmp_path: Path, pipe: Path) -> None:
    code = (
        "import asyncio, pathlib\nfrom maspo_dist.compare.lane import Lane\nconfig = pathlib.Path('c.yaml')\n"
        f"asyncio.run(Lane({waiting(pipe)!r}).train(config, [], pathlib.Path({str(tmp_path / 'run.log')!r})))"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        child = process_in(pipe)
        parent.kill()
        child.wait(30)
