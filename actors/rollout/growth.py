"""A pool whose size is a range grows with the cluster, and shows the cluster what it lacks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from actors.ray.waits import within
from actors.rollout.worker_slot import PoolState, WorkerSlot
from maspo_dist.config import WorkerRange
from maspo_dist.errors import ActorDiedError, DeadlineError, PlacementError
from maspo_dist.runs.rows import Event

logger = logging.getLogger(__name__)

#: Seconds between two looks for room in the cluster.
_FOLLOW_S = 5.0
_ANSWER_S = 30.0


class Growth:
    """Opens slots as the cluster gains room; slots whose nodes are lost close by themselves.

    Where more workers are wanted than there is room, one slot waits for a node, which an autoscaler may add.
    """

    def __init__(
        self,
        bounds: WorkerRange,
        pool: PoolState,
        slots: Mapping[int, WorkerSlot],
        resize: Callable[[int], None],
        wait_for_node: Callable[[float], WorkerSlot],
    ) -> None:
        """`resize` opens slots up to a number; `wait_for_node` opens the slot that waits for at most some seconds."""
        self._bounds = bounds
        self._pool = pool
        self._slots = slots
        self._resize = resize
        self._wait_for_node = wait_for_node
        self._node_timeout_s = pool.config.cluster.node_timeout_s
        self._ask_at_s = 0.0
        self._was_refused = False

    async def follow(self) -> None:
        """Runs until it is cancelled."""
        clock = asyncio.get_running_loop().time
        try:
            while True:
                await asyncio.sleep(_FOLLOW_S)
                wanted = self._bounds.max - len(self._slots)
                room = min(wanted, await self._room()) if wanted > 0 else 0
                if room > 0:
                    self._resize(len(self._slots) + room)
                elif wanted > 0 and clock() >= self._ask_at_s and not self._is_one_starting():
                    self._wait_for_node(self._node_timeout_s)
        except Exception as error:
            self._pool.condition.fail(error)

    async def _room(self) -> int:
        """Number of workers that fit into the cluster beside the others; 0 while the cluster does not answer."""
        try:
            return await within(_ANSWER_S, "cluster: its room", self._pool.factory.room())
        except (ActorDiedError, DeadlineError) as error:
            logger.warning("the cluster does not say what room it has: %s", error)
            return 0

    def refused(self, error: PlacementError) -> None:
        """The cluster had no room for a worker beyond the minimum."""
        self._ask_at_s = asyncio.get_running_loop().time() + self._node_timeout_s
        if not self._was_refused:
            self._was_refused = True
            message = f"{error}; the cluster is asked again every {2 * self._node_timeout_s:g} s"
            self._pool.on_event(Event(kind="worker_waits", message=message))

    def _is_one_starting(self) -> bool:
        return any(slot.state in ("starting", "waiting") for slot in self._slots.values())
