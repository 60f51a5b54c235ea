"""SlurmConfig, of `maspo-dist submit --slurm`: what a user says about a Slurm cluster, once for all runs on it."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, SkipValidation, field_validator

from maspo_dist.config.section import Folder, Listed, Name, Section

#: Options of sbatch that the script sets itself, by the key that changes them; None: no key does.
_OWN_OPTIONS = {
    "account": "account",
    "array": None,
    "chdir": None,
    "cpus-per-task": "cpus_per_node",
    "error": None,
    "gpus-per-node": "gpus_per_node",
    "job-name": "run.name",
    "mem": "memory_per_node",
    "no-requeue": None,
    "nodes": "--nodes",
    "ntasks": None,
    "ntasks-per-node": None,
    "open-mode": None,
    "output": None,
    "partition": "partition",
    "requeue": None,
    "signal": "stop_before_limit_s",
    "time": "time",
}
_TIME = re.compile(r"\d+|\d+:\d\d(:\d\d)?|\d+-\d\d?(:\d\d){0,2}")
#: Unix sockets have paths of 107 bytes, of which Ray and the job take 85.
_SCRATCH_BYTES = 22


class SlurmConfig(Section):
    """A Slurm cluster: where jobs run, what a node gives them, and how a shell there finds maspo-dist."""

    #: Partition of the jobs, or a list of partitions, of which Slurm takes the first that is free; null: the cluster's
    #: default.
    partition: Listed[Name] | None = None
    #: Account that is charged; null: the user's default.
    account: Name | None = None
    #: Longest time of a job, as Slurm writes it (MINUTES, HH:MM:SS, DAYS-HH:MM:SS). A run that needs longer saves and
    #: goes on in a next job. null: the partition's default.
    time: str | None = None
    #: Cores of each node that Ray uses.
    cpus_per_node: int = Field(ge=1)
    #: GPUs of each node that Ray uses, asked for as --gpus-per-node. Where a cluster wants another form, or a kind of
    #: GPU, write it as gres in `sbatch`, such as gpu:h100:8; gres none asks for nothing.
    gpus_per_node: int = Field(0, ge=0)
    #: Memory of each node, as Slurm writes it, such as 64G; null: the partition's default.
    memory_per_node: str | None = None
    #: Gigabytes of Ray's object store on each node; null: what Ray chooses, a share of the whole node's memory.
    object_store_gb: float | None = Field(None, ge=0.1)
    #: Seconds before the time limit at which a run is asked to save; Slurm may ask up to 60 s earlier. More than the
    #: time that a checkpoint takes.
    stop_before_limit_s: int = Field(300, ge=60, le=65_535)
    #: Folder on each node's own disk, for Ray's sockets and temporary files. A job makes a folder of its own in it.
    scratch: Folder = Path("/tmp")
    #: Network interface, the same on each node, for Ray and for the processes of learners, such as ib0; null: Ray and
    #: NCCL choose one themselves.
    network_interface: Name | None = None
    #: Lines of shell that each node runs first, such as `module load cuda`.
    setup: Listed[str] = Field(default_factory=list)
    #: Words before every command of Ray and of the run, such as [apptainer, exec, --nv, --bind, /shared, IMAGE]. A
    #: command in the container must see the node's processes, network, scratch, run.dir and environment.
    container: list[str] = Field(default_factory=list)
    #: More options of sbatch, by their long names, such as {qos: long, exclusive: true}.
    sbatch: dict[str, SkipValidation[str | int | bool]] = Field(default_factory=dict)

    @field_validator("time", mode="before")
    @classmethod
    def _minutes_are_text(cls, value: object) -> object:
        return str(value) if type(value) is int else value

    @field_validator("time")
    @classmethod
    def _time_is_slurms(cls, value: str | None) -> str | None:
        if value is not None and not _TIME.fullmatch(value):
            raise ValueError(f"time must be MINUTES, HH:MM:SS or DAYS-HH:MM:SS, got {value!r}")
        return value

    @field_validator("memory_per_node")
    @classmethod
    def _memory_is_slurms(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"\d+[KMGT]?", value):
            raise ValueError(f"memory_per_node must be a number with K, M, G or T, such as 64G, got {value!r}")
        return value

    @field_validator("scratch")
    @classmethod
    def _scratch_is_short(cls, value: Path) -> Path:
        text = str(value)
        if not re.fullmatch(r"/[\w./-]*", text, re.ASCII) or len(text) > _SCRATCH_BYTES:
            raise ValueError(
                f"scratch {text!r} must be an absolute path of at most {_SCRATCH_BYTES} letters, digits, '.', '_', "
                "'-' and '/': Ray's sockets lie below it, and their paths have a limit"
            )
        return value

    @field_validator("setup")
    @classmethod
    def _setup_is_lines(cls, value: list[str]) -> list[str]:
        for line in value:
            if "\n" in line:
                raise ValueError(f"setup: write {line.splitlines()[0]!r} and what follows as lines of a list")
        return value

    @field_validator("sbatch")
    @classmethod
    def _options_are_others(cls, value: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
        for name, setting in value.items():
            if not re.fullmatch(r"[a-z][a-z-]*", name):
                raise ValueError(f"sbatch: {name!r} is not the long name of an option; leave out the '--'")
            if name in _OWN_OPTIONS:
                key = _OWN_OPTIONS[name]
                fix = f"set {key} instead" if key else "remove it, since the job relies on its own value"
                raise ValueError(f"sbatch: {name} is set by the job itself; {fix}")
            is_value = isinstance(setting, str | int) and setting is not False
            if not is_value or not re.fullmatch(r"[^\s\"'\\#]+", str(setting)):
                raise ValueError(
                    f"sbatch: {name} is {setting!r}; write a value without spaces, in quotes unless it is a whole "
                    "number, or true for a bare option"
                )
        return value
