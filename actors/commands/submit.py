"""`maspo-dist submit --slurm`: writes the batch script of a run and hands it to sbatch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from actors.commands.backends import require_backends
from maspo_dist.config import build_config, dump_config, load_config, read_tree
from maspo_dist.config.slurm import SlurmConfig
from maspo_dist.errors import ConfigError, DataError, MaspoError
from maspo_dist.planning.check import inspect_run, run_notes
from maspo_dist.planning.slurm import JobFiles, batch_script, gpus_of, node_script, require_submittable

#: The file beside a configuration that describes the cluster.
_CLUSTER_FILE = "slurm.yaml"
#: Overrides that begin with it change the cluster.
_CLUSTER_PREFIX = "slurm."
#: sbatch itself retries while the controller does not answer.
_SBATCH_S = 120


def submit_to_slurm(
    path: Path, overrides: Sequence[str], cluster_path: Path | None, nodes: int, *, is_dry: bool, allows_missing: bool
) -> None:
    """Checks the run as `maspo-dist check` does, writes its job into the run's folder and submits it.

    `is_dry` prints the script and writes nothing. `allows_missing` submits although this machine lacks the model or
    data. Notes go to stderr. Raises the errors of `check`, ConfigError or PlacementError for a run that cannot be a
    job, DataError for what this machine lacks, and MaspoError if sbatch refuses the job.
    """
    of_cluster = [text for text in overrides if text.startswith(_CLUSTER_PREFIX)]
    config = load_config(path, [text for text in overrides if text not in of_cluster])
    cluster = read_cluster(cluster_path or path.parent / _CLUSTER_FILE, of_cluster)
    require_backends(config)
    require_submittable(config, cluster, nodes)
    inspected = inspect_run(config)
    for note in run_notes(config, inspected):
        print(f"note: {note}", file=sys.stderr)
    for lack in inspected.missing:
        print(f"note: the nodes of the job need what this machine lacks: {lack}", file=sys.stderr)
    if inspected.missing and not allows_missing and not is_dry:
        raise DataError(
            "this machine lacks what the job needs, see the notes: put it here, or add --anyway if the nodes of the "
            "job have it"
        )
    job = JobFiles(run=(config.run.dir / config.run.name).absolute(), config_text=dump_config(config))
    script = batch_script(config, cluster, nodes, job, Path(sys.executable).parent)
    if is_dry:
        print(script, end="")
        return
    job.folder.mkdir(parents=True, exist_ok=True)
    texts = {job.script: script, job.node: node_script(), job.config: job.config_text}
    for file, text in texts.items():
        file.write_text(text, encoding="utf-8")
    print(f"script {job.script}")
    print(f"configuration {job.config}")
    if cluster.gpus_per_node and config.model.device != "cpu":
        print(f"GPUs: the run starts on {gpus_of(config)} of {nodes * cluster.gpus_per_node}")
    if shutil.which("sbatch") is None:
        raise ConfigError(f"sbatch is not on the PATH here: call `sbatch {job.script}` on a login node of the cluster")
    number = _sbatch(job.script)
    print(f"job {number}, which writes {job.folder}/job-{number}.log")
    print(f"a shell on its first node: srun --overlap --jobid={number} --pty bash")


def read_cluster(path: Path, overrides: Sequence[str]) -> SlurmConfig:
    """The cluster that `path` describes, changed by `overrides`, such as slurm.time=60. Raises ConfigError."""
    if not path.is_file():
        raise ConfigError(
            f"{path} does not exist: describe the cluster there, or name the file with --cluster; "
            "deploy/slurm/cluster.yaml is an example"
        )
    tree = read_tree(path)
    try:
        return build_config(SlurmConfig, tree, [text.removeprefix(_CLUSTER_PREFIX) for text in overrides])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _sbatch(script: Path) -> str:
    """Submits the script; returns the number of the job. Raises MaspoError with what sbatch says."""
    done = subprocess.run(
        ["sbatch", "--parsable", str(script)], capture_output=True, text=True, timeout=_SBATCH_S, check=False
    )
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise MaspoError(f"sbatch refuses {script}: {said}")
    return done.stdout.strip().partition(";")[0]
