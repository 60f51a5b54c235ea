"""A learner whose ranks meet in a real process group."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

from actors.learner.actor import Learner
from doubles.faulty_actors import DigestEngine
from maspo_dist.types import FloatArray, IntArray


class MeetingEngine(DigestEngine):
    """Ranks meet, in the process group at the init address; a probe does so as often as its first token says."""

    def __init__(self, rank: int, ranks: int, init_address: str) -> None:
        super().__init__(rank)
        dist.init_process_group("gloo", init_method=init_address, rank=rank, world_size=ranks)

    def logprobs(self, sequences: Sequence[IntArray]) -> list[FloatArray]:
        present = torch.ones(1)
        for _ in range(sequences[0][0]):
            present = torch.ones(1)
            dist.all_reduce(present)
        return [present.numpy()]


class MeetingLearner(Learner):
    def _start_engine(self, init_address: str) -> MeetingEngine:
        return MeetingEngine(self._rank, self._ranks, init_address)
