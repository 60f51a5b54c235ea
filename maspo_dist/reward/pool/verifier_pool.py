"""Verdicts from processes that can be killed.

    submit / verify / verify_many ──► queue ──► Slot thread ──► verifier process
              ▲                      (bounded)   (deadline)      (memory limit)
              └────────────── Verdict ◄──────────────┘

Callers may be plain threads or coroutines of any event loop; no Ray is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType

from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.errors import VerifierError
from maspo_dist.reward.pool.memory import VerdictMemory
from maspo_dist.reward.pool.monitor import UnverifiableMonitor
from maspo_dist.reward.pool.remote_slot import RemoteSlot
from maspo_dist.reward.pool.slot import ProcessDeath, Slot
from maspo_dist.reward.pool.ticket import Batch, Outcome, Ticket
from maspo_dist.reward.sample import Sample
from maspo_dist.types import Verdict

_JOIN_S = 10.0


class VerifierPool:
    """`config.workers` verifier processes behind one bounded queue.

    A sample always gets a verdict: past `timeout_s` its process is killed with all its children and
    the verdict is `timeout`; when its process dies, `error`. Other samples are not harmed.
    Close it (or use it as a context manager): processes end with it, and with the process that owns it
    however that ends.
    """

    def __init__(self, config: VerifierConfig | None = None) -> None:
        """Starts the processes without waiting for them; the first verdict does."""
        self.config = config or VerifierConfig()
        self._memory = VerdictMemory()
        self._monitor = UnverifiableMonitor(self.config.unverifiable_window, self.config.max_unverifiable_share)
        self._tickets: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._room = threading.BoundedSemaphore(self.config.queue_size)
        self._rooms: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            weakref.WeakKeyDictionary()
        )
        self._lock = threading.Lock()
        self._pending: set[Ticket] = set()
        self._failure: VerifierError | None = None
        self._deaths: queue.SimpleQueue[ProcessDeath] = queue.SimpleQueue()
        remote_urls = _remote_urls(self.config)
        self._slots = [
            Slot(
                f"verifier-{index}",
                self.config,
                self._tickets,
                self._memory,
                self._resolve,
                self._break,
                self._deaths.put,
            )
            for index in range(self.config.workers)
            if self.config.rewards() - remote_urls
        ]
        self._remote_tickets = {url: queue.SimpleQueue[Ticket | None]() for url in remote_urls}
        self._remote_slots = [
            RemoteSlot(url, self.config, tickets, self._resolve, self._break)
            for url, tickets in self._remote_tickets.items()
            for _ in range(self.config.workers)
        ]
        self._threads: tuple[Slot | RemoteSlot, ...] = (*self._slots, *self._remote_slots)
        for thread in self._threads:
            thread.start()

    def submit(self, sample: Sample) -> Future[Verdict]:
        """Hands in one sample; blocks while the queue is full. For threads, not for event loops.

        Raises VerifierError when the pool is closed, broken, or leaves too many samples unverifiable.
        """
        self._monitor.check()
        self._room.acquire()
        future: Future[Verdict] = Future()

        def deliver(outcome: Outcome) -> None:
            self._room.release()
            if future.set_running_or_notify_cancel():
                _settle(future, outcome)

        try:
            self._enqueue([Ticket(sample, deliver)])
        except BaseException:
            self._room.release()
            raise
        return future

    async def verify(self, sample: Sample) -> Verdict:
        """Scores one sample; waits, without holding up the event loop, while the queue is full.

        Raises VerifierError as `submit` does.
        """
        loop = asyncio.get_running_loop()
        room = self._rooms.setdefault(loop, asyncio.Semaphore(self.config.queue_size))
        async with room:
            self._monitor.check()
            future: asyncio.Future[Verdict] = loop.create_future()

            def deliver(outcome: Outcome) -> None:
                # The loop may be closed by now: then nobody waits any more.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(_settle, future, outcome)

            self._enqueue([Ticket(sample, deliver)])
            # A caller that is cancelled leaves its ticket to run to its end.
            verdict = await future
        self._monitor.check()
        return verdict

    def verify_many(self, samples: Sequence[Sample | tuple[str, str]]) -> list[Verdict]:
        """Scores samples, or pairs (response, reference), in order: one verdict each, whatever happens.

        Raises VerifierError when the pool is closed or its processes cannot start.
        """
        # No back-pressure: the caller holds all samples anyway.
        batch = Batch(
            [item if isinstance(item, Sample) else Sample(response=item[0], reference=item[1]) for item in samples]
        )
        self._enqueue(batch.tickets)
        return batch.wait()

    def pids(self) -> list[int]:
        """Of the verifier processes that serve now."""
        return [pid for slot in self._slots if (pid := slot.pid) is not None]

    def take_deaths(self) -> tuple[ProcessDeath, ...]:
        """Deaths of processes that have been replaced since the last call."""
        return tuple(self._deaths.get() for _ in range(self._deaths.qsize()))

    def close(self) -> None:
        """Kills the processes; samples without a verdict fail with VerifierError. Safe to call twice."""
        self._break(VerifierError("the verifier pool is closed"))
        for thread in self._threads:
            thread.stop()
        # Only now: a thread that was not to stop yet could take another's.
        for tickets in (self._tickets, *self._remote_tickets.values()):
            for _ in self._threads:
                tickets.put(None)
        for thread in self._threads:
            thread.join(timeout=_JOIN_S)

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _enqueue(self, tickets: Sequence[Ticket]) -> None:
        with self._lock:
            if self._failure:
                raise self._failure
            self._pending.update(tickets)
        for ticket in tickets:
            self._remote_tickets.get(self.config.reward_for(ticket.sample.source), self._tickets).put(ticket)

    def _resolve(self, ticket: Ticket, outcome: Outcome) -> None:
        """The first outcome stands; later ones, of a pool that was closed meanwhile, are ignored."""
        try:
            self._pending.remove(ticket)
        except KeyError:
            return
        if isinstance(outcome, Verdict):
            self._monitor.record(self.config.reward_for(ticket.sample.source), outcome.verifiable, outcome.reason)
        ticket.deliver(outcome)

    def _break(self, error: VerifierError) -> None:
        """No verdicts from now on: everyone who waits gets `error`."""
        with self._lock:
            self._failure = self._failure or error
            pending = list(self._pending)
        for ticket in pending:
            self._resolve(ticket, error)


def _settle(future: Future[Verdict] | asyncio.Future[Verdict], outcome: Outcome) -> None:
    if future.cancelled():
        return
    if isinstance(outcome, VerifierError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _remote_urls(config: VerifierConfig) -> set[str]:
    """Rewards that are one remote scorer and nothing else; they need no verifier process."""
    return {reward for reward in config.rewards() if reward.startswith(("http://", "https://"))}
