"""Publishes the learner's weights to the rollout workers, and says what proves that they arrived.

    learner: logprobs of the probes, weights ──► WeightUpdate ──► pool: every worker loads and proves them

Probes are responses of the last batch, or prompts before the first batch. `actors.rollout.proof` holds the proof.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from actors.controller.turns import DeviceTurns
from actors.interfaces import Body, LearnerGroup, PublishReport, RolloutPool, WeightUpdate
from actors.rollout.proof import mean_gap_limit
from actors.weights.probes import longest_probe, response_probes
from maspo_dist.config import TrainConfig
from maspo_dist.errors import BodyLostError
from maspo_dist.types import IntArray, RolloutGroup

logger = logging.getLogger(__name__)

#: Groups of a batch of which responses become probes.
_PROBE_GROUPS = 8


@dataclass(kw_only=True, eq=False)
class Publisher:
    """Publishes one policy version at a time.

    prompts     probes that are made of prompts
    tokens      of all probes of a publish, where they are made of responses
    start_gap   mean gap between the logprobs of engines and learner at policy version 0, the measure for later
                versions; it is saved in checkpoints, and None where it is not known
    turns       gives the engines the devices of the learners; None where each has its own
    """

    config: TrainConfig
    pool: RolloutPool
    learners: LearnerGroup
    prompts: Sequence[IntArray]
    tokens: int
    start_gap: float | None = None
    turns: DeviceTurns | None = None

    async def publish(self, version: int, bodies: Sequence[Body] = ()) -> PublishReport:
        """Publishes the learner's weights, which are of `version`; `bodies` are the groups that it trained on last.

        Raises what `RolloutPool.publish` raises.
        """
        if version == 0:
            self.start_gap = None
        probes = response_probes(await self._groups(bodies), self.tokens, longest_probe(self.config)) or self.prompts
        expected = await self.learners.probe(probes)
        snapshot = await self.learners.export_weights(version)
        configured, dtype = self.config.sync.max_mean_logprob_gap, self.config.model.dtype
        limit = mean_gap_limit(configured, dtype, self.start_gap)
        update = WeightUpdate(snapshot=snapshot, probes=probes, expected=expected, max_mean_gap=limit)
        if self.turns is not None:
            await self.turns.to_engines()
        report = await self.pool.publish(update)
        if version == 0:
            self.start_gap = report.mean_logprob_gap
        return report

    async def _groups(self, bodies: Sequence[Body]) -> list[RolloutGroup]:
        groups = []
        for body in bodies[:_PROBE_GROUPS]:
            try:
                groups.append(await self.pool.fetch(body))
            except BodyLostError as error:
                logger.warning("a group makes no probes: %s", error)
        return groups
