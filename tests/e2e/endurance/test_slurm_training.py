"""Real training in jobs under a real Slurm on this machine: side by side, and over ends after which a job goes on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest
import yaml
from doubles.live_run import Launcher, LiveRun, command, comparable, subreaper
from slurm_cluster import IS_MISSING, NEEDS, RESUMED_ENDS, Job, PrivateSlurm, private_slurm

from maspo_dist.runs.folder import RunFolder

pytestmark = pytest.mark.skipif(IS_MISSING, reason=NEEDS)

_STEPS = 10
#: The cores of a node decide how many threads compute, and threads decide the last bits of a number.
_SETTINGS = (f"run.max_steps={_STEPS}", "rollout.threads=1", "checkpoint.every=2")


class TrainingJob(Job):
    """A run on two nodes, which share this machine, submitted as a person does."""

    def __init__(self, name: str, config: Path, slurm: PrivateSlurm, runs: Path, *overrides: str) -> None:
        # Ray's sockets need a short path.
        self.scratch = slurm.folder / name
        self.scratch.mkdir()
        self.run = RunFolder(runs / name)
        cluster = runs / f"{name}.cluster.yaml"
        cluster.write_text(yaml.safe_dump({"cpus_per_node": 2, "object_store_gb": 0.2, "scratch": str(self.scratch)}))
        options = ["--slurm", str(config), f"--cluster={cluster}", "--nodes=2", f"run.name={name}", f"run.dir={runs}"]
        printed = command("submit", *options, *_SETTINGS, *overrides)
        told = re.search(r"^job (\d+), which writes (.+)$", printed, re.MULTILINE)
        assert told is not None, printed
        super().__init__(told[1], Path(told[2]))

    @property
    def steps(self) -> list[int]:
        return [row["step"] for row in self.run.read_metrics()]

    def wait_for_step(self, step: int) -> None:
        self.wait_until(lambda: step in self.steps, f"step {step}")


@pytest.fixture(scope="module")
def alone(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> LiveRun:
    """The same run without Slurm."""
    launcher = Launcher(tiny_config, tmp_path_factory.mktemp("alone"))
    with subreaper():
        try:
            return launcher.train("alone", *_SETTINGS)
        finally:
            launcher.close()


@pytest.fixture(scope="module")
def slurm(alone: LiveRun) -> Iterator[PrivateSlurm]:
    """Starts when `alone` has ended."""
    with private_slurm() as slurm:
        yield slurm


def test_two_jobs_side_by_side_train_to_the_numbers_of_a_run_alone(
    alone: LiveRun, slurm: PrivateSlurm, tiny_config: Path, tmp_path: Path
) -> None:
    jobs = [TrainingJob(name, tiny_config, slurm, tmp_path) for name in ("one", "two")]
    for job in jobs:
        job.wait_for_state("RUNNING")
    jobs[0].wait_until(lambda: any(1 in job.steps for job in jobs), "step 1 of either job")
    assert [job.state for job in jobs] == ["RUNNING", "RUNNING"]
    for job in jobs:
        job.wait_for_state("COMPLETED")
        assert comparable(list(job.run.read_metrics())) == comparable(alone.metrics), job.log
    for job in jobs:
        slurm.assert_nothing_left(job.scratch)


@pytest.mark.parametrize("name", RESUMED_ENDS)
def test_a_job_saves_and_goes_on_with_the_next_step(
    name: str, alone: LiveRun, slurm: PrivateSlurm, tiny_config: Path, tmp_path: Path
) -> None:
    job = TrainingJob(name[:4], tiny_config, slurm, tmp_path, "run.max_steps=10000")
    job.wait_for_step(1)
    RESUMED_ENDS[name](job, slurm)
    job.wait_for_end(1)
    saved = max(int(path.name.removeprefix("step-")) for path in job.run.checkpoints_path.glob("step-*"))
    job.start_again()
    job.wait_for_step(saved + 2)
    # A daemon that comes back may end the next start too; the job then goes back into the queue by itself.
    resumed = {event["message"] for event in job.run.read_events() if event["kind"] == "resumed"}
    assert resumed == {f"after step {saved}"}
    job.cancel()
    slurm.assert_nothing_left(job.scratch)
    assert job.steps == list(range(len(job.steps)))
    pairs = zip(comparable(list(job.run.read_metrics())), comparable(alone.metrics), strict=False)
    equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    print(f"{name}: saved after step {saved}; steps with the numbers of a run alone: {equal - 1} of {_STEPS}")
    # After a resume vLLM may round a logit otherwise, and a sampled token differs.
    assert equal > min(saved, _STEPS)
