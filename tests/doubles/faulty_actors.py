"""Actors with quick engines, whose processes are struck as the prompts say."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import ray

from actors.interfaces import ActorProcess, TensorEntry
from actors.learner.actor import Learner
from actors.processes import ActorClasses
from actors.rollout.actor import RolloutActor
from doubles.drained_node import drain_node
from doubles.engines import FakeEngine
from doubles.fault_script import freeze, strikes
from maspo_dist.errors import ActorDiedError
from maspo_dist.reward.pool.lifetime import end_with_parent
from maspo_dist.runs.step_record import ResponseLogprobs
from maspo_dist.types import (
    FloatArray,
    GroupReport,
    IntArray,
    MiniBatch,
    Rollout,
    RolloutGroup,
    RolloutRequest,
    Sampling,
)

if TYPE_CHECKING:
    import torch

#: Whether this process is on the node that is to be lost. Its responses are large, because Ray keeps small objects with
#: the driver, where the loss of a node does not lose them.
_ON_LOST_NODE = "MASPO_TEST_NODE" in os.environ
_LARGE = 200_000
#: Whether this process is on the node that is to leave.
_ON_LEAVING_NODE = "MASPO_TEST_LEAVING_NODE" in os.environ
#: What a node that leaves is given; a run looks for such nodes each second.
LEAVES_WITHIN_S, _NOTICED_S = 60.0, 3.0


class EchoEngine(FakeEngine):
    """Every response, and every ping, goes through another process, as with a real engine; `cat` is enough."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self._process = process
        self._turn = asyncio.Lock()

    @classmethod
    async def start(cls) -> EchoEngine:
        end = partial(end_with_parent, os.getpid())
        return cls(await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE, preexec_fn=end))

    async def generate(self, token_ids: IntArray, sampling: Sampling, seed: int, cut_after_s: float | None) -> Rollout:
        await self._round_trip()
        rollout = await super().generate(token_ids, sampling, seed, cut_after_s)
        return replace(rollout, text=rollout.text.rjust(_LARGE)) if _ON_LOST_NODE else rollout

    async def ping(self) -> int:
        await self._round_trip()
        return await super().ping()

    def strike(self, which: signal.Signals) -> None:
        self._process.send_signal(which)

    def close(self) -> None:
        if self._process.returncode is None:
            self._process.kill()

    async def _round_trip(self) -> None:
        async with self._turn:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            if not self._process.stdin.is_closing():
                self._process.stdin.write(b"\n")
            if await self._process.stdout.readline() != b"\n":
                raise ActorDiedError("the engine's process died")


class FaultyRolloutActor(RolloutActor):
    """Struck when a prompt arrives, before it is answered."""

    @property
    def _start_fails(self) -> Path:
        """A file beside the script; while it is there, the next engine does not start."""
        return Path(self._config.data.train[0]).with_name("start-fails")

    async def generate(self, request: RolloutRequest) -> tuple[GroupReport, RolloutGroup]:
        reference = request.prompt.reference
        if strikes(reference, "kill_worker") or strikes(reference, "poison"):
            os.kill(os.getpid(), signal.SIGKILL)
        if strikes(reference, "kill_worker_and_its_start"):
            self._start_fails.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if strikes(reference, "freeze_worker"):
            freeze()
        if _ON_LOST_NODE and strikes(reference, "kill_node"):
            # A worker's parent is the raylet; without it, nothing of the node lives on.
            os.kill(os.getppid(), signal.SIGKILL)
        if _ON_LEAVING_NODE and strikes(reference, "rollout_node_leaves"):
            _leave()
            await asyncio.Event().wait()
        if strikes(reference, "stall"):
            await asyncio.Event().wait()
        if strikes(reference, "kill_engine"):
            self._echo.strike(signal.SIGKILL)
        if strikes(reference, "freeze_engine"):
            self._echo.strike(signal.SIGSTOP)
        return await super().generate(request)

    async def _make_engine(self) -> EchoEngine:
        if self._start_fails.exists():
            self._start_fails.unlink()
            raise RuntimeError("no memory left on the device")
        self._echo = await EchoEngine.start()
        return self._echo


def _leave() -> None:
    """Drains the node of this process."""
    here = ray.get_runtime_context()
    drain_node(here.gcs_address, here.get_node_id(), LEAVES_WITHIN_S)


class DigestEngine:
    """Weights that are a digest of all that was trained, in its order."""

    micro_batches = 0

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._weight = 1.0
        self.policy_version = 0

    def update(
        self,
        shard: tuple[MiniBatch, ...],
        loss_tokens: Sequence[int],
        loss_sequences: Sequence[int],
        groups: Mapping[int, RolloutGroup],
    ) -> dict[str, float]:
        for group in groups.values():
            if strikes(group.prompt.reference, "kill_learner"):
                os.kill(os.getpid(), signal.SIGKILL)
            if strikes(group.prompt.reference, "freeze_learner"):
                freeze()
            if strikes(group.prompt.reference, "learner_node_leaves"):
                _leave()
                time.sleep(_NOTICED_S)
        texts = [(key, group.prompt.prompt_id, [r.text for r in group.rollouts]) for key, group in groups.items()]
        digest = hashlib.sha256(repr((self._weight, shard, texts)).encode()).digest()
        # 24 bits: exact in float32.
        self._weight = int.from_bytes(digest[:3], "big") / 2**24
        self.policy_version += 1
        return {"learner/digest": self._weight}

    def named_weights(self) -> Iterable[tuple[str, torch.Tensor]]:
        import torch  # only here: a rank that is restarted has no second to lose

        yield "lm_head.weight", torch.full((4, 4), self._weight)

    def weight_entries(self) -> list[TensorEntry]:
        return [("lm_head.weight", "float32", (4, 4))]

    def logprobs(self, sequences: Sequence[IntArray]) -> list[FloatArray]:
        return [np.full(sequence.size - 1, -self._weight, np.float32) for sequence in sequences]

    def frozen_logprobs(self) -> list[ResponseLogprobs]:
        return []

    def save(self, folder: Path) -> None:
        if self._rank == 0:
            folder.mkdir()
            np.save(folder / "weight.npy", np.asarray([self._weight, self.policy_version]))

    def load(self, folder: Path) -> None:
        weight, version = np.load(folder / "weight.npy")
        self._weight, self.policy_version = float(weight), int(version)

    def close(self) -> None:
        pass


class FaultyLearner(Learner):
    """Ranks form no process group, so a fault hits one rank only."""

    def _start_engine(self, init_address: str) -> DigestEngine:
        return DigestEngine(self._rank)


class Somewhere:
    """The part of a rollout actor that says where it runs."""

    def start(self) -> ActorProcess:
        return ActorProcess(node_id=ray.get_runtime_context().get_node_id(), pid=os.getpid())

    def ping(self) -> None:
        pass


CLASSES = ActorClasses(rollout=FaultyRolloutActor, learner=FaultyLearner)
