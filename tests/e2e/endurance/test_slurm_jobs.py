"""Jobs under a real Slurm on this machine, with stand-ins for Ray and training, and every way to end them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from doubles.slurm_programs import FakeJob
from slurm_cluster import IS_MISSING, NEEDS, RESUMED_ENDS, Job, PrivateSlurm, ask, private_slurm

from maspo_dist.config.slurm import SlurmConfig

pytestmark = pytest.mark.skipif(IS_MISSING, reason=NEEDS)


class StandIn(Job):
    """A job of two nodes; only Ray and the training in it are stand-ins."""

    deadline_s = 120.0

    def __init__(self, folder: Path) -> None:
        self._fake = FakeJob(folder, 1, cluster=SlurmConfig(cpus_per_node=1))
        self._fake.keep_slurms_programs()
        self.scratch = self._fake.scratch
        number = ask("sbatch", "--parsable", f"--export=ALL,FAKE={folder}", str(self._fake.script))
        super().__init__(number, self._fake.script.parent / f"job-{number}.log")

    @property
    def starts(self) -> list[str]:
        return [call for call in self._fake.calls if call.startswith("maspo-dist train")]

    @property
    def saves(self) -> int:
        return self._fake.calls.count("saved after SIGTERM")

    def wait_for_start(self, number: int) -> None:
        self.wait_until(lambda: len(self.starts) == number, f"start {number}")

    def finish(self) -> None:
        (self._fake.folder / "exit").write_text("0")
        self.wait_for_state("COMPLETED")


@pytest.fixture(scope="module")
def slurm() -> Iterator[PrivateSlurm]:
    with private_slurm() as slurm:
        yield slurm


def test_a_cancelled_job_saves_once_and_does_not_come_back(slurm: PrivateSlurm, tmp_path: Path) -> None:
    job = StandIn(tmp_path / "job")
    job.wait_for_start(1)
    job.cancel()
    assert (len(job.starts), job.saves) == (1, 1)
    slurm.assert_nothing_left(job.scratch)


@pytest.mark.parametrize("name", RESUMED_ENDS)
def test_a_job_saves_once_and_its_next_start_resumes(name: str, slurm: PrivateSlurm, tmp_path: Path) -> None:
    job = StandIn(tmp_path / "job")
    job.wait_for_start(1)
    RESUMED_ENDS[name](job, slurm)
    job.start_again()
    job.wait_for_start(2)
    assert job.saves == 1, job.log
    assert job.starts[1].endswith("checkpoint.resume=auto")
    job.cancel()
    assert (len(job.starts), job.saves) == (2, 2)
    slurm.assert_nothing_left(job.scratch)


def test_two_jobs_share_the_nodes_and_end_by_themselves(slurm: PrivateSlurm, tmp_path: Path) -> None:
    jobs = [StandIn(tmp_path / name) for name in ("one", "two")]
    for job in jobs:
        job.wait_for_start(1)
    assert [job.state for job in jobs] == ["RUNNING", "RUNNING"]
    for job in jobs:
        job.finish()
    for job in jobs:
        slurm.assert_nothing_left(job.scratch)
