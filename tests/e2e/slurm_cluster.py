"""A Slurm of two nodes on this machine, for one module of tests, and a job in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from doubles.live_run import ROOT, descendants, orphaned_segments, subreaper

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
#: What a test needs, as the reason of a skip.
NEEDS = "needs root and the packages slurmctld, slurmd, slurm-client and munge"
IS_MISSING = os.geteuid() != 0 or any(shutil.which(name) is None for name in _PROGRAMS)

#: Begins the last line of a job's log.
_END = "maspo: the run ended with "
#: Until the daemons have taken down the last processes of a job.
_ENDING_S = 60.0


class PrivateSlurm:
    """The daemons, and what is there while no job runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._segments = orphaned_segments()
        self._daemons = {process.pid for process in descendants()}
        self._restarted: list[subprocess.Popen[bytes]] = []

    def kill_daemon(self, node: str) -> None:
        """As if the daemon of the node had crashed; the processes of its jobs live."""
        for process in descendants():
            with suppress(psutil.NoSuchProcess):
                if process.cmdline()[-2:] == ["-N", node]:
                    process.kill()

    def restart_daemon(self, node: str) -> None:
        with (self.folder / "log/daemons").open("ab") as log:
            process = subprocess.Popen(
                ["slurmd", "-D", "-f", self.folder / "slurm.conf", "-N", node],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        with (self.folder / "pids").open("a") as pids:
            pids.write(f"{process.pid}\n")
        self._daemons.add(process.pid)
        self._restarted.append(process)

    def reap(self) -> None:
        """Waits for the daemons that were restarted; call it when all have been ended."""
        for process in self._restarted:
            process.wait(20)

    def assert_nothing_left(self, scratch: Path) -> None:
        """No process, no shared memory, and no file in the scratch folder of a job."""
        deadline = time.monotonic() + _ENDING_S
        while (left := self._left(scratch)) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not left, f"left behind: {left}"

    def _left(self, scratch: Path) -> list[str]:
        found = [str(path) for path in scratch.iterdir()] + sorted(orphaned_segments() - self._segments)
        for process in descendants():
            with suppress(psutil.NoSuchProcess):
                if process.pid not in self._daemons and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(f"{process.pid} {' '.join(process.cmdline())[:120]}")
        return found


class Job:
    """One job, by its number."""

    #: Until what a test waits for has happened.
    deadline_s = 600.0

    def __init__(self, number: str, log: Path) -> None:
        self.number = number
        self._log = log

    @property
    def state(self) -> str:
        words = ask("scontrol", "show", "job", self.number).split()
        return next(word for word in words if word.startswith("JobState=")).removeprefix("JobState=")

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.is_file() else "the job has not started"

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self.deadline_s
        while not condition():
            assert time.monotonic() < deadline, f"no {what} within {self.deadline_s:g} s\n{self.log}"
            time.sleep(0.2)

    @property
    def ends(self) -> int:
        """Starts of the job that have saved and ended."""
        return self.log.count(_END)

    def wait_for_end(self, number: int) -> None:
        self.wait_until(lambda: self.ends == number, f"last line of start {number}")

    def wait_for_state(self, state: str) -> None:
        self.wait_until(lambda: self.state == state, state)

    def start_again(self) -> None:
        """Waits for the next start, without the two minutes that Slurm leaves before it by default."""
        self.wait_for_state("PENDING")
        # Slurm revokes the credentials of the second in which the old start ends, those of a new start too.
        time.sleep(2)
        self.wait_until(self._is_under_way, "next start")

    def _is_under_way(self) -> bool:
        # Slurm sets the two minutes when the last process of the old start has ended, which may be after an update.
        subprocess.run(["scontrol", "update", f"jobid={self.number}", "starttime=now"], capture_output=True, timeout=60)
        return self.state != "PENDING"

    def ask_to_save(self) -> None:
        ask("scancel", "--signal=TERM", "--batch", self.number)

    def pre_empt(self) -> None:
        """A job of the partition that goes first takes both nodes for a moment."""
        began = time.monotonic()
        options = ("--parsable", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true")
        other = Job(ask("sbatch", *options), Path("/dev/null"))
        other.wait_for_state("COMPLETED")
        print(f"from the pre-emption to the end of the other job: {time.monotonic() - began:.0f} s")

    def reach_time_limit(self) -> None:
        """Sets the time limit to one or two minutes from now, because Slurm counts whole minutes. Then removes the
        limit for the next start.
        """
        minutes = int(ask("squeue", "--noheader", f"--jobs={self.number}", "--format=%M").split(":")[-2])
        ask("scontrol", "update", f"jobid={self.number}", f"timelimit={minutes + 2}")
        self.wait_for_state("PENDING")
        ask("scontrol", "update", f"jobid={self.number}", "timelimit=UNLIMITED")

    def lose_daemon(self, slurm: PrivateSlurm) -> None:
        """The daemon of one node dies. Slurm notices after SlurmdTimeout; later the daemon is started again."""
        slurm.kill_daemon("n2")
        began = time.monotonic()
        self.wait_until(lambda: self.state != "RUNNING", "notice of the lost daemon")
        print(f"Slurm notices the lost daemon after {time.monotonic() - began:.0f} s")
        slurm.restart_daemon("n2")

    def cancel(self) -> None:
        """Ends it for good."""
        ends = self.ends
        ask("scancel", self.number)
        self.wait_for_end(ends + 1)
        assert self.log.rpartition(_END)[2].startswith("143, the job is COMPLETING"), self.log
        self.wait_for_state("CANCELLED")
        time.sleep(3)
        assert self.state == "CANCELLED"


#: Ends after which a job goes on.
RESUMED_ENDS: Mapping[str, Callable[[Job, PrivateSlurm], None]] = {
    "asked to save": lambda job, _: job.ask_to_save(),
    "pre-empted": lambda job, _: job.pre_empt(),
    "time limit": lambda job, _: job.reach_time_limit(),
    "lost daemon": Job.lose_daemon,
}


def ask(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def private_slurm() -> Iterator[PrivateSlurm]:
    """Starts the daemons and ends them, with all that jobs have left. Commands find them by SLURM_CONF."""
    # The sockets of Ray and munge need short paths.
    folder = Path(f"/tmp/sl{os.getpid()}")
    folder.mkdir()
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    slurm: PrivateSlurm | None = None
    with subreaper():
        try:
            up = [ROOT / "deploy/slurm/trial_up.sh", folder]
            done = subprocess.run(up, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
            slurm = PrivateSlurm(folder)
            yield slurm
        finally:
            with suppress(subprocess.TimeoutExpired):
                subprocess.run(["scancel", "--user=root"], timeout=20)
            deadline = time.monotonic() + _ENDING_S
            while _queue() and time.monotonic() < deadline:
                time.sleep(0.5)
            subprocess.run([ROOT / "deploy/slurm/trial_down.sh", folder], timeout=120)
            for process in descendants():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            if slurm is not None:
                slurm.reap()
            shutil.rmtree(folder, ignore_errors=True)
            del os.environ["SLURM_CONF"]


def _queue() -> str:
    try:
        return subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, timeout=20).stdout
    except subprocess.TimeoutExpired:
        return ""
