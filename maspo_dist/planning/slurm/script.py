"""From a run and a cluster to the batch script that trains the run there."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from maspo_dist.config import TrainConfig
from maspo_dist.config.slurm import SlurmConfig
from maspo_dist.errors import ConfigError, PlacementError
from maspo_dist.runs.folder import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFiles:
    """Where the files of a job are, in the folder of its run; every node must see them."""

    #: The folder of the run, absolute.
    run: Path

    @property
    def folder(self) -> Path:
        return self.run / "slurm"

    @property
    def script(self) -> Path:
        return self.folder / "train.sbatch"

    @property
    def node(self) -> Path:
        return self.folder / "node.sh"

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"


def require_submittable(config: TrainConfig, cluster: SlurmConfig, nodes: int) -> None:
    """Raises ConfigError or PlacementError for a run that would fail as a job, or could not go on in a next one."""
    if config.checkpoint.every is None:
        raise ConfigError(
            "checkpoint.every is null, so that a job would save nothing at its time limit: set it, such as to 10"
        )
    if config.checkpoint.stop_grace_s > cluster.stop_before_limit_s:
        raise ConfigError(
            f"checkpoint.stop_grace_s ({config.checkpoint.stop_grace_s:g}) is more than stop_before_limit_s of the "
            f"cluster ({cluster.stop_before_limit_s}), so that the time limit would end the save: raise the latter"
        )
    path = config.run.dir / config.run.name
    if config.checkpoint.resume == "never" and RunFolder(path).used:
        fix = "choose another run.name, or set checkpoint.resume=auto to resume it"
        raise ConfigError(f"run folder {path} exists already: {fix}")
    if cluster.gpus_per_node and config.model.device != "cpu":
        engines = config.rollout.first_workers * config.rollout.tensor_parallel
        needed, there = config.learner.ranks + engines, nodes * cluster.gpus_per_node
        if needed > there:
            raise PlacementError(
                f"the run needs {needed} GPUs ({config.learner.ranks} for learner.ranks, {engines} for "
                f"rollout.workers), but {nodes} nodes with gpus_per_node {cluster.gpus_per_node} have {there}: raise "
                "--nodes"
            )


def batch_script(config: TrainConfig, cluster: SlurmConfig, nodes: int, files_of_job: JobFiles, path: Path) -> str:
    """The batch script of a run on `nodes` nodes. `path` is the folder of the programs of this Python's environment,
    which a node's shell searches first.
    """
    options: dict[str, str | int | bool | None] = {
        "job-name": config.run.name,
        "nodes": nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": cluster.cpus_per_node,
        "gpus-per-node": cluster.gpus_per_node or None,
        "mem": cluster.memory_per_node,
        "partition": cluster.partition,
        "account": cluster.account,
        "time": cluster.time,
        "signal": f"B:TERM@{cluster.stop_before_limit_s}",
        "requeue": True,
        "open-mode": "append",
        "output": _pattern(files_of_job.folder / "job"),
        **cluster.sbatch,
    }
    store = "" if cluster.object_store_gb is None else str(round(cluster.object_store_gb * 1e9))
    setup = [f"export PATH={shlex.quote(str(path))}:$PATH", *cluster.setup]
    variables = {
        "MASPO_FILES": str(files_of_job.folder),
        "MASPO_RUN": str(files_of_job.run),
        "MASPO_SCRATCH": str(cluster.scratch),
        "MASPO_SETUP": "\n".join(setup),
        "MASPO_CPUS": str(cluster.cpus_per_node),
        "MASPO_GPUS": str(cluster.gpus_per_node),
        "MASPO_STORE": store,
    }
    head = [
        "#!/bin/bash",
        f"# Trains {config.run.name}. Written by `maspo-dist submit --slurm`.",
        *(
            f"#SBATCH --{name}" + ("" if value is True else f"={value}")
            for name, value in options.items()
            if value is not None
        ),
        *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
    ]
    return "\n".join(head) + "\n\n" + _text("batch.sh")


def node_script() -> str:
    """The script that runs Ray on one node."""
    return _text("node.sh")


def _pattern(stem: Path) -> str:
    """The path of the job's output: Slurm puts the number of the job in place of %j, and % in place of %%."""
    text = str(stem).replace("%", "%%")
    if any(character in text for character in "\"\\'\n"):
        raise ConfigError(f"run.dir leads to {stem}: Slurm takes no path with quotes or backslashes")
    return f'"{text}-%j.log"'


def _text(name: str) -> str:
    return files("maspo_dist.planning.slurm").joinpath(name).read_text(encoding="utf-8")
