"""A job under Slurm: what its scripts do at every end, with stand-ins for Slurm, Ray and the training."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from doubles.slurm_programs import CLUSTER, FakeJob

from maspo_dist.config.slurm import SlurmConfig


def time_limit(job: FakeJob) -> None:
    job.wait_for_training()
    job.process.send_signal(signal.SIGTERM)


def interrupt(job: FakeJob) -> None:
    job.wait_for_training()
    job.process.send_signal(signal.SIGINT)


def cancel(job: FakeJob) -> None:
    job.wait_for_training()
    (job.folder / "state").write_text("COMPLETING\n")
    task = job.head_task()
    job.process.send_signal(signal.SIGTERM)
    task.send_signal(signal.SIGTERM)


def preempt(job: FakeJob) -> None:
    job.wait_for_training()
    job.head_task().send_signal(signal.SIGTERM)


def no_progress(job: FakeJob) -> None:
    (job.folder / "too-early").touch()
    time_limit(job)


def early(job: FakeJob) -> None:
    job.wait_until(lambda: any("--head" in call for call in job.calls), "the start of Ray")
    job.process.send_signal(signal.SIGTERM)


def ending(code: int) -> Callable[[FakeJob], None]:
    def end(job: FakeJob) -> None:
        job.wait_for_training()
        (job.folder / "exit").write_text(str(code))

    return end


def head_dies(job: FakeJob) -> None:
    job.wait_for_training()
    task = job.head_task()
    [head] = [process for process in job.rays() if process.environ()["SLURMD_NODENAME"] == "n1"][:1]
    head.kill()
    task.wait(30)
    (job.folder / "exit").write_text("1")


#: name → what happens to the job, and how often Slurm has restarted it before.
STORIES: dict[str, tuple[Callable[[FakeJob], None], int]] = {
    "time limit": (time_limit, 0),
    "cancelled": (cancel, 0),
    "preempted": (preempt, 0),
    "interrupted": (interrupt, 0),
    "no progress": (no_progress, 0),
    "asked to stop during the start": (early, 0),
    "finished": (ending(0), 0),
    "failed": (ending(1), 0),
    "failed with Ray": (head_dies, 4),
    "failed with Ray for the sixth time": (head_dies, 5),
    "restarted": (ending(0), 1),
    "slow node": (ending(0), 0),
    "in a container": (time_limit, 0),
    "two networks": (ending(0), 0),
    "loopback": (lambda job: None, 0),
}
CLUSTERS = {
    "in a container": SlurmConfig(cpus_per_node=4, container=["box", "--bind", "/a folder"]),
    "two networks": SlurmConfig(cpus_per_node=4, network_interface="ib0"),
}


@dataclass(frozen=True)
class Ended:
    code: int
    calls: list[str]
    log: str

    @property
    def requeued(self) -> bool:
        return any(call.startswith("scontrol requeue") for call in self.calls)

    @property
    def trained(self) -> list[str]:
        return [call for call in self.calls if call.startswith("maspo-dist")]


def play(name: str, number: int, folder: Path) -> Ended:
    happens, restarts = STORIES[name]
    job = FakeJob(folder, number, restarts, CLUSTERS.get(name, CLUSTER))
    (job.scratch / f"maspo-{number}.99").mkdir()
    if name == "slow node":
        (folder / "slow").touch()
    if name == "loopback":
        (folder / "head").write_text("127.0.0.1:6379\n")
    try:
        job.start()
        happens(job)
        return Ended(code=job.finish(), calls=job.calls, log=job.log)
    finally:
        job.close()


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Ended]]:
    """How each story ended. They wait most of the time, so they are played side by side."""
    folder = tmp_path_factory.mktemp("jobs")
    with ThreadPoolExecutor(4) as pool:
        played = {
            name: pool.submit(play, name, 100 + number, folder / str(number)) for number, name in enumerate(STORIES)
        }
        yield {name: future.result() for name, future in played.items()}


@pytest.mark.parametrize("name", ["time limit", "preempted"])
def test_a_job_that_must_leave_saves_and_goes_back_into_the_queue(name: str, ended: dict[str, Ended]) -> None:
    job = ended[name]
    assert job.code == 143
    assert job.calls.count("saved after SIGTERM") == 1
    assert job.requeued, job.log


@pytest.mark.parametrize("name", ["cancelled", "interrupted"])
def test_a_job_that_is_cancelled_saves_once_and_never_comes_back(name: str, ended: dict[str, Ended]) -> None:
    job = ended[name]
    assert job.code == 143
    assert job.calls.count("saved after SIGTERM") == 1
    assert not job.requeued, job.log


def test_a_job_that_saved_nothing_does_not_come_back(ended: dict[str, Ended]) -> None:
    job = ended["no progress"]
    assert job.code == 143
    assert not job.requeued
    assert "this job saved no step" in job.log


def test_a_signal_during_the_start_ends_the_job_before_it_trains(ended: dict[str, Ended]) -> None:
    job = ended["asked to stop during the start"]
    assert job.code == 143
    assert job.trained == []


def test_a_job_that_ends_by_itself_does_not_come_back(ended: dict[str, Ended]) -> None:
    assert [ended[name].code for name in ("finished", "failed")] == [0, 1]
    assert not any(ended[name].requeued for name in ("finished", "failed"))


def test_a_run_that_fails_with_ray_is_tried_again_at_most_five_times(ended: dict[str, Ended]) -> None:
    assert ended["failed with Ray"].requeued, ended["failed with Ray"].log
    assert not ended["failed with Ray for the sixth time"].requeued


def test_what_a_run_writes_is_as_readable_as_its_user_wants(ended: dict[str, Ended]) -> None:
    """Prometheus, another user, reads a file beside the run folder."""
    os.umask(mine := os.umask(0))
    assert {call for call in ended["finished"].calls if call.startswith("umask")} == {f"umask {mine:04o}"}


def test_only_a_restarted_job_resumes(ended: dict[str, Ended]) -> None:
    [first] = ended["finished"].trained
    [again] = ended["restarted"].trained
    assert "checkpoint.resume" not in first
    assert re.search(r"/slurm/config-\w{8}\.yaml checkpoint\.resume=auto$", again)


def test_a_node_on_which_ray_does_not_start_tries_again(ended: dict[str, Ended]) -> None:
    started = {name: sum("ray start" in call for call in ended[name].calls) for name in ("finished", "slow node")}
    assert started == {"finished": 2, "slow node": 3}
    assert ended["slow node"].code == 0


def test_every_port_is_free_and_the_head_needs_no_known_address(ended: dict[str, Ended]) -> None:
    head, other = (call.split() for call in ended["finished"].calls if "ray start" in call)
    assert "--port=0" in head
    assert "--address=10.0.0.1:6379" in other
    assert {"--node-manager-port=0", "--object-manager-port=0", "--min-worker-port=0"} <= set(head) & set(other)
    assert "--num-cpus=4" in other


def test_in_a_container_ray_and_the_run_start_there_and_signals_reach_the_run(ended: dict[str, Ended]) -> None:
    job = ended["in a container"]
    inside = [call.removeprefix("box --bind /a folder ").split()[:2] for call in job.calls if call.startswith("box")]
    assert inside.count(["ray", "start"]) == 2
    assert {words[0] for words in inside} == {"bash", "maspo-dist", "python", "ray"}
    assert job.calls.count("saved after SIGTERM") == 1
    assert job.requeued


def test_a_named_interface_gives_ray_its_address_on_every_node(ended: dict[str, Ended]) -> None:
    starts = {
        name: [call for call in ended[name].calls if "ray start" in call] for name in ("two networks", "finished")
    }
    assert all("--node-ip-address=10.0.0.7" in call for call in starts["two networks"])
    assert not any("--node-ip-address" in call for call in starts["finished"])


def test_a_head_that_other_nodes_cannot_reach_is_named(ended: dict[str, Ended]) -> None:
    job = ended["loopback"]
    assert job.code == 1
    assert not job.requeued
    assert "Ray's head took 127.0.0.1:6379, which other nodes cannot reach: set network_interface" in job.log
