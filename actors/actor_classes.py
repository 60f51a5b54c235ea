"""Which classes run as a run's actors. Fault tests subclass them, to put other engines behind real processes."""

from __future__ import annotations

from dataclasses import dataclass

from actors.learner import Learner
from actors.rollout_actor import RolloutActor
from actors.verifier_pool import VerifierActor


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorClasses:
    """Each class must be importable on every node."""

    rollout: type[RolloutActor] = RolloutActor
    learner: type[Learner] = Learner
    verifier: type[VerifierActor] = VerifierActor
