"""Stand-ins for the programs that a job calls, as scripts in a folder, and one job that runs with them.

Each notes its calls in the file `calls`. What they answer is in files of the same folder, so that a test can change it:
`state` is the state of the job, `head` the address that Ray's head takes, and `exit` ends the training with the code
that it holds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from maspo_dist.config import dump_config, load_config
from maspo_dist.config.slurm import SlurmConfig
from maspo_dist.planning.slurm import JobFiles, batch_script, node_script

ROOT = Path(__file__).parents[2]
CLUSTER = SlurmConfig(cpus_per_node=4)

_PROGRAMS = {
    # A step: hands signals on to its task and ends with it.
    "srun": """
while [[ $1 == --* ]]; do shift; done
"$@" &
task=$!
trap 'kill -USR1 $task' USR1
trap 'kill -TERM $task' TERM
while kill -0 $task 2> /dev/null; do sleep 0.1 & wait $!; done
wait $task
""",
    "ray": """
echo "ray $*" >> "$FAKE/calls"
echo "umask $(umask)" >> "$FAKE/calls"
if [ -e "$FAKE/slow" ]; then rm "$FAKE/slow"; exit 1; fi
[[ " $* " != *" --head "* ]] || { mkdir -p "$MASPO_TMP/r"; cp "$FAKE/head" "$MASPO_TMP/r/ray_current_cluster"; }
echo up >> "$FAKE/calls"
exec sleep 600
""",
    # Whether all nodes are there, and the address of an interface.
    "python": """
cat > /dev/null
case $2 in
  *[!0-9]*) echo 10.0.0.7 ;;
  *) [ "$(grep -c '^up$' "$FAKE/calls")" -ge "$2" ] ;;
esac
""",
    # A container.
    "box": """
echo "box $*" >> "$FAKE/calls"
while [[ $1 == --bind ]]; do shift 2; done
exec "$@"
""",
    "squeue": 'cat "$FAKE/state"\n',
    "scontrol": 'echo "scontrol $*" >> "$FAKE/calls"\n',
    "maspo-dist": """
echo "maspo-dist $*" >> "$FAKE/calls"
echo "umask $(umask)" >> "$FAKE/calls"
save() {
  echo "saved after SIGTERM" >> "$FAKE/calls"
  [ -e "$FAKE/too-early" ] || mkdir -p "$MASPO_RUN/checkpoints/step-000007"
  exit 143
}
trap save TERM
: > "$FAKE/training"
until [ -e "$FAKE/exit" ]; do sleep 0.1 & wait $!; done
exit "$(< "$FAKE/exit")"
""",
}


class FakeJob:
    """A job of two nodes, both on this machine; `restarts` is how often Slurm has restarted it."""

    def __init__(self, folder: Path, number: int, restarts: int = 0, cluster: SlurmConfig = CLUSTER) -> None:
        self.folder = folder
        self.run = folder / "runs" / "a run"
        self._programs = folder / "programs"
        self._programs.mkdir(parents=True)
        for name, text in _PROGRAMS.items():
            program = self._programs / name
            program.write_text(f"#!/bin/bash\n{text}")
            program.chmod(0o755)
        (folder / "state").write_text("RUNNING\n")
        (folder / "head").write_text("10.0.0.1:6379\n")
        (folder / "calls").touch()
        self.scratch = folder / "tmp"
        self.scratch.mkdir()
        config = load_config(ROOT / "configs/local_smoke.yaml")
        files = JobFiles(run=self.run, config_text=dump_config(config))
        files.folder.mkdir(parents=True)
        # The path of a test's folder is too long for a real Ray, whose sockets would lie there.
        cluster = cluster.model_copy(update={"scratch": self.scratch})
        files.script.write_text(batch_script(config, cluster, 2, files, self._programs))
        files.node.write_text(node_script())
        self._node_script = files.node
        self._environment = {
            **os.environ,
            "FAKE": str(folder),
            "SLURM_JOB_ID": str(number),
            "SLURM_RESTART_COUNT": str(restarts),
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURMD_NODENAME": "n1",
        }
        self.script = files.script
        self._process: subprocess.Popen[bytes] | None = None

    def keep_slurms_programs(self) -> None:
        """For a job under a real Slurm: only Ray, Python and the training stay stand-ins."""
        for name in ("srun", "squeue", "scontrol"):
            (self._programs / name).unlink()

    def start(self) -> None:
        with (self.folder / "log").open("wb") as log:
            # Tests in the background may ignore SIGINT, and a shell cannot trap a signal that its parent ignored.
            command = ["env", "--default-signal=INT", "bash", str(self.script)]
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log, cwd=self.folder)

    @property
    def process(self) -> psutil.Process:
        assert self._process is not None
        return psutil.Process(self._process.pid)

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def wait_until(self, condition: Callable[[], bool], what: str, deadline_s: float = 60.0) -> None:
        deadline = time.monotonic() + deadline_s
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {deadline_s:g} s\n{self.log}"
            time.sleep(0.05)

    def wait_for_training(self) -> None:
        self.wait_until((self.folder / "training").exists, "training")

    def head_task(self) -> psutil.Process:
        """The task of the step in which the head of Ray runs."""
        for process in self.process.children(recursive=True):
            if process.cmdline()[-2:] == [str(self._node_script), "head"]:
                return process
        raise AssertionError(f"there is no head:\n{self.log}")

    def rays(self) -> list[psutil.Process]:
        """The processes of Ray, of this job alone."""
        sleeping = [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "600"]]
        return [process for process in sleeping if self._is_mine(process)]

    def _is_mine(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("FAKE") == str(self.folder)
        except psutil.Error:
            return False

    def finish(self, deadline_s: float = 60.0) -> int:
        """The exit code of the batch script; fails if a process or a temporary folder is left."""
        assert self._process is not None
        code = self._process.wait(deadline_s)
        self.wait_until(lambda: not self.rays(), "the end of Ray")
        assert list(self.scratch.iterdir()) == []
        return code

    def close(self) -> None:
        """Ends what a failed test has left."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(60)
