"""A seat in the rollout pool; workers that sit on it come and go."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal

from actors.ray.waits import within
from actors.rollout.members import Member
from maspo_dist.errors import ActorDiedError, DeadlineError, MaspoError, PlacementError
from maspo_dist.flow.failures import RestartBudget
from maspo_dist.types import Event

PlaceState = Literal["starting", "joining", "serving", "leaving", "lost", "waiting"]

_STOP_S = 30.0


@dataclass(slots=True, eq=False)
class Place:
    """`task` keeps a worker on it until it is to `leave`; `member` is that worker, while there is one."""

    index: int
    budget: RestartBudget
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    state: PlaceState = "starting"
    member: Member | None = None
    restarts: int = 0
    task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return f"rollout worker {self.index}"

    def leave(self) -> None:
        """Its worker's requests go to others and it ends; one that is still to start is given up."""
        self.leaving.set()
        if self.member is not None:
            self.member.end(None)
        elif self.task is not None:
            self.task.cancel()

    @contextlib.asynccontextmanager
    async def held_by(self, member: Member) -> AsyncIterator[None]:
        """`member` sits here; on the way out its process is ended: killed when it was lost, else stopped first."""
        self.member = member
        is_lost = False
        try:
            yield
        except (ActorDiedError, DeadlineError) as error:
            is_lost = True
            member.end(error)
            raise
        finally:
            member.end(None)
            is_lost = is_lost or member.ended.result() is not None
            self.state = "lost" if is_lost else "leaving"
            self.member = None
            try:
                if not is_lost:
                    await within(_STOP_S, f"{member.worker.name}: stop", member.worker.stop())
            except MaspoError:
                # Killed next, whatever it was.
                pass
            finally:
                member.worker.kill()

    async def pause(self, seconds: float) -> None:
        """Waits so long, or until it is to leave."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.leaving.wait()

    def loss_event(self, cause: MaspoError, groups: int, pause_s: float | None) -> Event:
        """Its worker was lost with `groups` aboard and is replaced after `pause_s`; None: never."""
        then = "its place is given up" if pause_s is None else f"replaced in {pause_s:g} s"
        return Event(
            kind="worker_lost",
            message=f"{cause}; the groups aboard ({groups}) go to others; {then}",
            details=(("worker", self.name), ("groups", groups)),
        )

    def waiting_event(self, error: PlacementError) -> Event:
        """The cluster has no room for a worker; the place is kept until it has."""
        return Event(kind="worker_waits", message=f"{error}", details=(("worker", self.name),))

    def recovery_event(self, seconds: float) -> Event:
        """A worker serves here again, `seconds` after the one before was lost."""
        return Event(
            kind="worker_recovered",
            message=f"{self.name} serves again after {seconds:.1f} s",
            details=(("worker", self.name), ("seconds", seconds)),
        )
