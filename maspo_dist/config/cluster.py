"""The cluster section: deadlines of what runs on Ray, and what follows when one passes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from maspo_dist.config.section import Section


class ClusterConfig(Section):
    """Ray and the deadlines of what runs on it."""

    #: Where learner ranks meet, on the node of rank 0, for networks that open few ports; null takes a free one.
    learner_port: int | None = Field(None, ge=1, le=65535)
    #: Processes that must be up before training, engines' start included.
    start_timeout_s: float = Field(600.0, gt=0)
    #: A place in the cluster for one more rollout worker.
    place_timeout_s: float = Field(60.0, gt=0)
    #: One prompt group, from dispatch to verdicts.
    generate_timeout_s: float = Field(1800.0, gt=0)
    #: One batch on the learners.
    update_timeout_s: float = Field(3600.0, gt=0)
    #: One weight publish, proof included.
    publish_timeout_s: float = Field(600.0, gt=0)
    #: One checkpoint.
    save_timeout_s: float = Field(1800.0, gt=0)
    #: A call to the verifier, its wait in the queue included; past it its responses (32 at most) are sent again.
    verify_timeout_s: float = Field(600.0, gt=0)
    #: Seconds between pings of the verifier and each rollout worker, and how long verifier or engine may take to
    #: answer one, in the middle of loading weights too; past it the process is killed and starts anew.
    heartbeat_s: float = Field(10.0, gt=0)
    heartbeat_timeout_s: float = Field(60.0, gt=0)
    #: Pause before a lost rollout worker is replaced, doubled with each loss of the window.
    restart_backoff_s: float = Field(1.0, ge=0)
    restart_backoff_max_s: float = Field(60.0, ge=0)
    #: Losses within the window after which one worker's place is given up, or the run, for a learner.
    max_worker_restarts: int = Field(5, ge=0)
    max_learner_restarts: int = Field(3, ge=0)
    restart_window_s: float = Field(1800.0, gt=0)
    #: Seconds without any progress after which the watchdog names what everything waits for.
    stall_timeout_s: float = Field(900.0, gt=0)
    #: What it does then: restart ends the oldest wait as its deadline would, fail ends the run, report only tells.
    on_stall: Literal["restart", "fail", "report"] = "restart"

    @property
    def serving_deadline_s(self) -> float:
        """Longest until some rollout worker serves when none does: its first new start may fail."""
        return 2 * (self.restart_backoff_max_s + self.start_timeout_s + self.publish_timeout_s)

    @property
    def turn_deadline_s(self) -> float:
        """Longest until some group is answered while all workers are kept for groups alone, or none serves."""
        return self.serving_deadline_s + 2 * self.generate_timeout_s + self.heartbeat_timeout_s
