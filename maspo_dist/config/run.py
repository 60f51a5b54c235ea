"""The sections `run`, `checkpoint` and `logging`: a run, and what it writes to its folder."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from maspo_dist.config.section import Execution, Folder, Meaning, Name, Operation, PathText, Section


class RunConfig(Section):
    """The run and its folder."""

    #: Name of the run's folder in `dir`.
    name: Execution[Name]
    #: Parent of all run folders.
    dir: Operation[Folder] = Path("runs")
    #: Seed of the data order, of sampling and of every other draw.
    seed: Meaning[int] = Field(0, ge=0, lt=2**31)
    #: Training stops after this many batches. A resume that moves it matters only if learner.schedule ends there.
    max_steps: Execution[int] = Field(ge=0)


class CheckpointConfig(Section):
    """Saving and resuming."""

    #: Batches between checkpoints; null saves none, since a checkpoint can be larger than the model's folder.
    every: int | None = Field(None, ge=1)
    #: Number of newest checkpoints to keep.
    keep: int = Field(2, ge=1)
    #: Metric (larger is better) by which the best checkpoint is kept as well. auto is the mean of avg@k over the
    #: held-out sets; none keeps only the newest checkpoints.
    keep_best: str = Field("auto", min_length=1)
    #: auto resumes from the newest good checkpoint of the run folder; never refuses a folder that holds a run;
    #: anything else is the path of a checkpoint to resume from. It may be of another run if the folder holds no run.
    resume: PathText = "never"
    #: Seconds that a run may take to save and end after SIGTERM or Ctrl-C; then it ends without that checkpoint. Many
    #: clusters end a process 30 s after SIGTERM: a longer grace needs more from them too.
    stop_grace_s: float = Field(20.0, gt=0)

    @field_validator("resume")
    @classmethod
    def _resume_is_no_misspelt_word(cls, value: str) -> str:
        words = ("auto", "never")
        near = difflib.get_close_matches(value, words, n=1)
        if near and value not in words and "/" not in value:
            raise ValueError(f"got {value!r}; did you mean {near[0]}? A checkpoint of that name would be ./{value}")
        return value


class WandbConfig(Section):
    """Weights & Biases, where it is installed."""

    #: Project that the run appears in.
    project: str
    #: User or team that owns the project; null takes the default of the logged-in user.
    entity: str | None = None
    #: offline writes to the run's logs folder, for a later upload.
    mode: Literal["online", "offline"] = "online"


class LoggingConfig(Section):
    """What a run writes besides metrics.jsonl."""

    #: Write the metrics as TensorBoard event files too.
    tensorboard: bool = True
    #: Send the metrics to Weights & Biases too; null sends none.
    wandb: WandbConfig | None = None
    #: Port on the node of the controller where Prometheus reads /metrics: 0 takes any free port, null serves none.
    prometheus_port: int | None = Field(None, ge=0, le=65535)
    #: Address to serve at; 0.0.0.0 lets other machines read the metrics too.
    prometheus_host: str = Field("127.0.0.1", min_length=1)
    #: Groups per step whose responses go to samples.jsonl; null writes all.
    sample_groups: int | None = Field(8, ge=0)
    #: Steps recorded under steps/ for `maspo-dist replay`: none, all, or last:K. Each takes the space of a
    #: checkpoint and the time to write one.
    record_steps: str = "none"

    @property
    def recorded_steps(self) -> int | None:
        """How many steps are kept; None keeps all."""
        if self.record_steps == "all":
            return None
        return int(self.record_steps.removeprefix("last:")) if self.record_steps != "none" else 0

    @field_validator("record_steps")
    @classmethod
    def _steps_are_counted(cls, value: str) -> str:
        if value not in ("none", "all") and not re.fullmatch(r"last:[1-9]\d*", value):
            raise ValueError(f"record_steps must be none, all, or last:K with K of at least 1, got {value!r}")
        return value
