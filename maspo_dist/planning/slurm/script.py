"""From a run and a cluster to the batch script that trains the run there."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from maspo_dist.config import TrainConfig
from maspo_dist.config.slurm import SlurmConfig
from maspo_dist.errors import ConfigError, PlacementError


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFiles:
    """Where the files of a job are, in the folder of its run; every node must see them."""

    #: The folder of the run, absolute.
    run: Path
    #: The text of the configuration. A later job of the same run leaves the file of a job that still waits as it is.
    config_text: str

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
        digest = hashlib.sha256(self.config_text.encode()).hexdigest()
        return self.folder / f"config-{digest[:8]}.yaml"


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
    if not cluster.gpus_per_node and (config.model.device == "cuda" or "gpu" in str(cluster.sbatch.get("gres"))):
        raise ConfigError("gpus_per_node of the cluster is 0, so that Ray would use no GPU: set it, such as to 8")
    if cluster.gpus_per_node and config.model.device != "cpu":
        _require_room(config, cluster, nodes)


def _require_room(config: TrainConfig, cluster: SlurmConfig, nodes: int) -> None:
    """Raises PlacementError if the nodes have too few GPUs or cores for a run on GPUs."""
    ranks, engines, width = config.learner.ranks, config.rollout.first_workers, config.rollout.tensor_parallel
    if width > cluster.gpus_per_node:
        raise PlacementError(
            f"rollout.tensor_parallel is {width}, but a node has gpus_per_node {cluster.gpus_per_node}: an engine has "
            "all its GPUs on one node, so lower rollout.tensor_parallel"
        )
    needed, there = gpus_of(config), nodes * cluster.gpus_per_node
    if needed > there:
        is_colocated = config.cluster.layout == "colocated"
        others = ", on which engines take turns" if is_colocated else f", {engines * width} for rollout.workers"
        raise PlacementError(
            f"the run needs {needed} GPUs ({ranks} for learner.ranks{others}), but "
            f"{nodes} nodes with gpus_per_node {cluster.gpus_per_node} have {there}: raise --nodes"
        )
    needed, there = cores_of(config), nodes * cluster.cpus_per_node
    if needed > there:
        raise PlacementError(
            f"the run needs {needed} cores ({ranks} for learner.ranks, {engines} for rollout.workers, "
            f"{config.reward.workers} for reward.workers), but {nodes} nodes with cpus_per_node "
            f"{cluster.cpus_per_node} have {there}: raise cpus_per_node"
        )


def gpus_of(config: TrainConfig) -> int:
    """GPUs that a run on GPUs has at its start; colocated engines take turns on those of the ranks."""
    if config.cluster.layout == "colocated":
        return config.learner.ranks
    return config.learner.ranks + config.rollout.first_workers * config.rollout.tensor_parallel


def cores_of(config: TrainConfig) -> int:
    """Cores that a run on GPUs has at its start, as `plan_bundles` counts them."""
    return config.learner.ranks + config.rollout.first_workers + config.reward.workers


def batch_script(config: TrainConfig, cluster: SlurmConfig, nodes: int, files_of_job: JobFiles, path: Path) -> str:
    """The batch script of a run on `nodes` nodes. `path` is the folder of the programs of this Python's environment,
    which a node's shell searches first.
    """
    options: dict[str, str | int | bool | None] = {
        "job-name": config.run.name,
        "nodes": nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": cluster.cpus_per_node,
        "gpus-per-node": (cluster.gpus_per_node or None) if "gres" not in cluster.sbatch else None,
        "mem": cluster.memory_per_node,
        "partition": ",".join(cluster.partition) if cluster.partition else None,
        "account": cluster.account,
        "time": cluster.time,
        "signal": f"B:TERM@{cluster.stop_before_limit_s}",
        "requeue": True,
        "open-mode": "append",
        # Relative paths of the configuration begin here, wherever the job is submitted from.
        "chdir": _quoted(Path.cwd()),
        "output": _pattern(files_of_job.folder / "job"),
        **cluster.sbatch,
    }
    gpu_options = [f"--{name}={options[name]}" for name in ("gpus-per-node", "gres") if options.get(name)]
    store = "" if cluster.object_store_gb is None else str(round(cluster.object_store_gb * 1e9))
    setup = [f"export PATH={shlex.quote(str(path))}:$PATH", *cluster.setup]
    variables = {
        "MASPO_FILES": str(files_of_job.folder),
        "MASPO_CONFIG": str(files_of_job.config),
        "MASPO_RUN": str(files_of_job.run),
        "MASPO_SCRATCH": str(cluster.scratch),
        "MASPO_SETUP": "\n".join(setup),
        "MASPO_CONTAINER": shlex.join(cluster.container),
        "MASPO_INTERFACE": cluster.network_interface or "",
        "MASPO_CPUS": str(cluster.cpus_per_node),
        "MASPO_GPUS": str(cluster.gpus_per_node),
        "MASPO_GPU_OPTION": "".join(gpu_options),
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
    return _quoted(Path(str(stem).replace("%", "%%") + "-%j.log"))


def _quoted(path: Path) -> str:
    if any(character in str(path) for character in "\"\\'\n"):
        raise ConfigError(f"the job needs the path {path}: Slurm takes no path with quotes or backslashes")
    return f'"{path}"'


def _text(name: str) -> str:
    return files("maspo_dist.planning.slurm").joinpath(name).read_text(encoding="utf-8")
