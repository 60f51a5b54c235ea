"""TrainConfig: the sections of a run, and what must hold between them."""

from __future__ import annotations

from pydantic import model_validator

from maspo_dist.config.algorithm import AlgorithmConfig
from maspo_dist.config.cluster import ClusterConfig
from maspo_dist.config.data import DataConfig
from maspo_dist.config.environment import EnvironmentConfig
from maspo_dist.config.evaluation import HeldOutConfig
from maspo_dist.config.learner import LearnerConfig
from maspo_dist.config.model import ModelConfig
from maspo_dist.config.rollout import SLOT_RANKS, RolloutConfig, SyncConfig
from maspo_dist.config.run import CheckpointConfig, LoggingConfig, RunConfig
from maspo_dist.config.section import Execution, Meaning, Operation, Section
from maspo_dist.config.verifier import VerifierConfig


class TrainConfig(Section):
    """The whole configuration of a run."""

    run: RunConfig
    model: ModelConfig
    data: Meaning[DataConfig]
    rollout: RolloutConfig
    #: Tools or an environment; null: a response is one turn.
    environment: Meaning[EnvironmentConfig | None] = None
    reward: Execution[VerifierConfig] = VerifierConfig()
    algorithm: Meaning[AlgorithmConfig] = AlgorithmConfig()
    learner: LearnerConfig = LearnerConfig()
    sync: Execution[SyncConfig] = SyncConfig()
    checkpoint: Operation[CheckpointConfig] = CheckpointConfig()
    evaluation: Execution[HeldOutConfig] = HeldOutConfig()
    logging: Operation[LoggingConfig] = LoggingConfig()
    cluster: Operation[ClusterConfig] = ClusterConfig()

    @property
    def longest_response_tokens(self) -> int:
        """Of training and evaluation: an engine has room for it after the longest prompt."""
        scored_tokens = self.evaluation.max_response_tokens if self.evaluation.every is not None else None
        return max(self.rollout.max_response_tokens, scored_tokens or 0)

    @property
    def group_deadline_s(self) -> float:
        """Upper bound on the time of a group over all attempts, each with a wait for a worker and its answer."""
        cluster = self.cluster
        return self.rollout.max_attempts * (cluster.turn_deadline_s + cluster.generate_timeout_s)

    @property
    def publish_deadline_s(self) -> float:
        """Upper bound on the time between two publishes: a batch, its update, a learner restart, an evaluation."""
        cluster = self.cluster
        restart_s = cluster.restart_backoff_max_s + cluster.start_timeout_s + cluster.save_timeout_s
        return 2 * self.group_deadline_s + cluster.update_timeout_s + restart_s + cluster.publish_timeout_s

    @model_validator(mode="after")
    def _sections_fit(self) -> TrainConfig:
        if self.algorithm.mini_batches > self.rollout.prompts_per_step:
            raise ValueError(
                f"algorithm.mini_batches ({self.algorithm.mini_batches}) is more than rollout.prompts_per_step "
                f"({self.rollout.prompts_per_step}): a mini-batch needs at least one group"
            )
        ahead = 1 + self.algorithm.max_policy_age
        if (self.rollout.over_sampling or 1.0) > ahead:
            raise ValueError(
                f"rollout.over_sampling ({self.rollout.over_sampling:g}) is more than the {ahead} batches that "
                f"algorithm.max_policy_age ({self.algorithm.max_policy_age}) lets train: lower one or raise the other"
            )
        overlong = self.algorithm.overlong.buffer_tokens
        if overlong > self.rollout.max_response_tokens:
            raise ValueError(
                f"algorithm.overlong.buffer_tokens ({overlong}) is more than rollout.max_response_tokens "
                f"({self.rollout.max_response_tokens})"
            )
        self._environment_fits()
        if self.rollout.lora == "adapter":
            self._adapters_can_travel()
        if self.cluster.layout == "colocated":
            self._turns_are_possible()
        elif self.sync.transport == "ipc":
            raise ValueError(
                "sync.transport is ipc, but cluster.layout is separate, so that engines and learners share no device: "
                "set transport to auto, or layout to colocated"
            )
        return self

    def _adapters_can_travel(self) -> None:
        lora = self.learner.lora
        if lora is None:
            raise ValueError(
                "rollout.lora is adapter, but learner.lora is not set, so there are no adapters: set it, or remove "
                "rollout.lora"
            )
        if lora.rank > SLOT_RANKS[-1]:
            raise ValueError(
                f"rollout.lora is adapter, but learner.lora.rank is {lora.rank} and vLLM holds adapters of rank "
                f"{SLOT_RANKS[-1]} at most: lower it, or set rollout.lora to merged"
            )
        if self.cluster.layout == "colocated":
            raise ValueError(
                "rollout.lora is adapter, but cluster.layout is colocated, where engines drop all weights while the "
                "learner trains and a publish must bring them back: set rollout.lora to merged, or layout to separate"
            )

    def _turns_are_possible(self) -> None:
        rollout, learner = self.rollout, self.learner
        engines, rest = divmod(learner.ranks, rollout.tensor_parallel)
        is_offloaded = (learner.offload_optimizer, learner.offload_parameters) != ("none", "none")
        problems = {
            f"algorithm.max_policy_age is {self.algorithm.max_policy_age}, so that engines would generate during an "
            "update: set it to 0": self.algorithm.max_policy_age > 0,
            f"rollout.tensor_parallel ({rollout.tensor_parallel}) does not divide learner.ranks ({learner.ranks}), and "
            "an engine needs whole ranks: set ranks to a multiple of it": rest > 0,
            "rollout.workers is not learner.ranks / rollout.tensor_parallel, and each engine shares the devices of its "
            f"own ranks: set it to {engines}": rollout.workers != engines,
            f"learner.zero_stage is {learner.zero_stage}, under which DeepSpeed cannot leave a device: set it to 2 or "
            "3": learner.zero_stage < 2,
            "learner.offload_optimizer and learner.offload_parameters move to the host what the layout moves in "
            "turns: set both to none": is_offloaded,
            "sync.transport is collective, which needs a device for each of its processes: set it to "
            "auto": self.sync.transport == "collective",
            "sync.transport is ipc, by which engines read whole weights in the memory of each rank, but with "
            "learner.zero_stage 3 or learner.lora no rank holds them: set it to auto": self.sync.transport == "ipc"
            and not learner.holds_whole_weights,
        }
        for problem, is_so in problems.items():
            if is_so:
                raise ValueError(f"cluster.layout is colocated, but {problem}, or layout to separate")

    def _environment_fits(self) -> None:
        if self.environment is None:
            return
        turn, whole = self.environment.max_turn_tokens, self.rollout.max_response_tokens
        if turn is not None and turn > whole:
            raise ValueError(
                f"environment.max_turn_tokens ({turn}) is more than rollout.max_response_tokens ({whole}), which "
                "bounds all turns together: lower it, or set it to null"
            )
        if self.rollout.engine.get("enable_prefix_caching") is False:
            raise ValueError(
                "rollout.engine.enable_prefix_caching is false, but an environment is set: each turn would compute all "
                "turns before it again; remove the key"
            )
