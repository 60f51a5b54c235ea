"""Child processes end with the process that started them."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from maspo_dist.compare.plan import PlannedRun, make_plan
from maspo_dist.compare.run import last_line, run_all, run_command
from maspo_dist.config import CompareConfig

SMOKE = Path(__file__).parents[2] / "configs" / "local_smoke.yaml"

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


def test_a_command_runs_to_its_end_and_its_output_is_logged(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "run.log"
    command = [sys.executable, "-c", "print('one'); print('two'); raise SystemExit(3)"]
    assert asyncio.run(run_command(command, log)) == 3
    assert last_line(log) == "two"
    assert last_line(tmp_path / "none.log") == ""


async def test_cancelling_ends_the_process(tmp_path: Path, pipe: Path) -> None:
    task = asyncio.create_task(run_command(waiting(pipe), tmp_path / "run.log"))
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
    command = [sys.executable, "-c", saves, str(pipe), str(saved)]

    async def run_one(_: PlannedRun) -> None:
        await run_command(command, tmp_path / "run.log")

    task = asyncio.create_task(run_all([run], 1, run_one))
    process = await asyncio.to_thread(process_in, pipe)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert saved.exists()
    assert not process.is_running()


async def test_a_grandchild_ends_with_the_command(tmp_path: Path, pipe: Path) -> None:
    code = f"import subprocess; subprocess.Popen({waiting(pipe)!r}).wait()"
    task = asyncio.create_task(run_command([sys.executable, "-c", code], tmp_path / "run.log"))
    child = await asyncio.to_thread(process_in, pipe)
    # Only the leader of the session is killed.
    os.kill(child.ppid(), signal.SIGKILL)
    assert await task == -signal.SIGKILL
    await asyncio.to_thread(child.wait, 30)


def test_a_process_ends_when_its_parent_is_killed(tmp_path: Path, pipe: Path) -> None:
    code = (
        "import asyncio, pathlib\nfrom maspo_dist.compare.run import run_command\n"
        f"asyncio.run(run_command({waiting(pipe)!r}, pathlib.Path({str(tmp_path / 'run.log')!r})))"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        child = process_in(pipe)
        parent.kill()
        child.wait(30)
