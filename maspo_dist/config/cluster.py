"""The section `cluster`: deadlines, and what happens when a deadline passes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from maspo_dist.config.section import Section

#: A number in YAML becomes its text.
EnvironmentValue = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) in (int, float) else value)]


class ClusterConfig(Section):
    """Deadlines and restarts of the processes on Ray."""

    #: separate: learners and engines have devices of their own. colocated: they take turns on the same devices, one
    #: engine per rollout.tensor_parallel learner ranks.
    layout: Literal["separate", "colocated"] = "separate"
    #: Labels that a node must have for a process of a role to be placed there, such as {rollout: {pool: spot}}. Ray's
    #: nodes get labels from `ray start --labels`. A role that is not named may be placed anywhere.
    labels: dict[Literal["learner", "rollout", "verifier"], dict[str, str]] = Field(default_factory=dict)
    #: Port on the node of rank 0 where learner ranks meet; null takes a free port.
    learner_port: int | None = Field(None, ge=1, le=65535)
    #: Environment variables of every actor, by name; the driver's NCCL_* and HF_* are handed on without it.
    environment: dict[str, EnvironmentValue] = Field(default_factory=dict)
    #: Seconds for all processes of a run to start, engines included.
    start_timeout_s: float = Field(600.0, gt=0)
    #: Seconds to wait for room in the cluster for one more rollout worker.
    place_timeout_s: float = Field(60.0, gt=0)
    #: Seconds for an autoscaler to add the nodes without which a run cannot start. Where rollout.workers is a range,
    #: also seconds to add a node for one more worker; after that, none is asked for until as many seconds later.
    node_timeout_s: float = Field(1200.0, gt=0)
    #: Seconds without a token of any response of a rollout worker after which its groups in flight are lost.
    generate_timeout_s: float = Field(1800.0, gt=0)
    #: Seconds for one batch on the learners.
    update_timeout_s: float = Field(3600.0, gt=0)
    #: Seconds for each part of a publish of weights: the learner's, and one worker's, proof included.
    publish_timeout_s: float = Field(600.0, gt=0)
    #: Seconds for one checkpoint. Training goes on without the next one while one takes longer; the end of a run waits
    #: for as long as the disk makes progress.
    save_timeout_s: float = Field(1800.0, gt=0)
    #: Seconds without any verdict. After that, the verifier counts as hung and gets its open responses again.
    verify_timeout_s: float = Field(600.0, gt=0)
    #: Seconds between health calls to the verifier and to each rollout worker.
    heartbeat_s: float = Field(10.0, gt=0)
    #: Seconds for the answer to a health call, even while weights are loaded; after that the process is restarted.
    heartbeat_timeout_s: float = Field(60.0, gt=0)
    #: Seconds before a lost rollout worker is replaced, doubled with each loss within restart_window_s.
    restart_backoff_s: float = Field(1.0, ge=0)
    #: Upper bound in seconds of the doubled pause.
    restart_backoff_max_s: float = Field(60.0, ge=0)
    #: Losses of one rollout worker within restart_window_s after which it is no longer replaced.
    max_worker_restarts: int = Field(5, ge=0)
    #: Losses of learners within restart_window_s, or at the same step, after which the run fails.
    max_learner_restarts: int = Field(3, ge=0)
    #: Seconds for which a loss counts.
    restart_window_s: float = Field(1800.0, gt=0)
    #: Seconds without any progress after which the watchdog reports every open wait.
    stall_timeout_s: float = Field(900.0, gt=0)
    #: What the watchdog does then. restart: the oldest wait fails, as after its deadline. fail: the run ends. report:
    #: only an event is written.
    on_stall: Literal["restart", "fail", "report"] = "restart"

    @property
    def restart_pauses_s(self) -> tuple[float, float, float]:
        """How long a loss counts, the first pause before a restart, and the longest; for a RestartBudget."""
        return self.restart_window_s, self.restart_backoff_s, self.restart_backoff_max_s

    @property
    def broadcast_deadline_s(self) -> float:
        """Time for each part of a broadcast of weights.

        A member waits for two parts at once, and its engine answers no ping meanwhile.
        """
        return 0.4 * self.heartbeat_timeout_s

    @property
    def serving_deadline_s(self) -> float:
        """Upper bound on the time until a worker serves again when none serves; it includes one failed restart."""
        return 2 * (self.restart_backoff_max_s + self.start_timeout_s + self.publish_timeout_s)

    @property
    def last_request_deadline_s(self) -> float:
        """Upper bound on the wait for requests in flight to end: their own deadline ends the last of them earlier."""
        return self.generate_timeout_s + self.heartbeat_timeout_s

    @property
    def turn_deadline_s(self) -> float:
        """Upper bound on the wait for any answer while every worker is reserved, or none is serving."""
        return self.serving_deadline_s + 2 * self.generate_timeout_s + self.heartbeat_timeout_s
