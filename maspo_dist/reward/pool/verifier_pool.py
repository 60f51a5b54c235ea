"""Verdicts from processes that can be killed.

    verify / verify_many ──► queue ──► Slot thread ──► verifier process
              ▲             (bounded)   (deadline)      (memory limit)
              └─────────── Verdict ◄────────┘

Callers may be plain threads or coroutines of any event loop; no Ray is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from maspo_dist.config.verifier import VerifierConfig, is_remote
from maspo_dist.errors import VerifierError
from maspo_dist.reward.pool.slot import HungSamples, Outcome, PoolSide, ProcessDeath, Slot, Ticket, serve_remote
from maspo_dist.reward.sample import Sample
from maspo_dist.reward.unverifiable import UnverifiableMonitor
from maspo_dist.types import Verdict

_JOIN_S = 10.0


class VerifierPool:
    """`config.workers` verifier processes behind one bounded queue.

    Each sample gets a verdict. A sample that takes longer than `timeout_s` gets the verdict `timeout`, and its process
    is killed with all its children. A repeat of the sample within a minute gets `timeout` at once. When its process
    dies, the verdict is `error`. Other samples are not affected. Close the pool, or use it as a context manager. The
    processes also end when their owner ends, however that happens.
    """

    def __init__(self, config: VerifierConfig | None = None) -> None:
        """Starts the processes without waiting for them; the first verdict waits."""
        self.config = config or VerifierConfig()
        self._monitor = UnverifiableMonitor(self.config)
        self._rooms = weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]()
        self._lock = threading.Lock()
        self._pending: set[Ticket] = set()
        self._failure: VerifierError | None = None
        self._last_verdict_s = time.monotonic()
        self._deaths: queue.SimpleQueue[ProcessDeath] = queue.SimpleQueue()
        # A reward that is one remote verifier and nothing else needs no process, and has a queue of its own.
        urls = {reward for reward in self.config.rewards() if is_remote(reward)}
        self._tickets = {reward: queue.SimpleQueue[Ticket | None]() for reward in ("", *urls)}
        self._hung = HungSamples(self.config)
        side = PoolSide(
            config=self.config,
            tickets=self._tickets[""],
            stopping=threading.Event(),
            hung=self._hung,
            resolve=self._resolve,
            fail=self._break,
            report_death=self._deaths.put,
        )
        self._stopping = side.stopping
        workers = range(self.config.workers)
        self._slots = [Slot(f"verifier-{index}", side) for index in workers if self.config.rewards() - urls]
        self._threads: list[threading.Thread] = [*self._slots]
        for url in urls:
            remote = replace(side, tickets=self._tickets[url])
            self._threads += [threading.Thread(target=serve_remote, args=(url, remote), daemon=True) for _ in workers]
        for thread in self._threads:
            thread.start()

    async def verify(self, sample: Sample) -> Verdict:
        """Scores one sample; while the queue is full it waits without blocking the event loop.

        Raises VerifierError when the pool is closed, broken, or leaves too many samples unverifiable.
        """
        loop = asyncio.get_running_loop()
        room = self._rooms.setdefault(loop, asyncio.Semaphore(self.config.queue_size))
        async with room:
            self._monitor.check()
            future: asyncio.Future[Verdict] = loop.create_future()

            def deliver(outcome: Outcome) -> None:
                # Nobody waits in a loop that is closed.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(_settle, future, outcome)

            ticket = Ticket(sample, deliver)
            self._enqueue([ticket])
            try:
                verdict = await future
            except asyncio.CancelledError:
                # A sample that a process has already is still scored.
                ticket.is_withdrawn = True
                self._pending.discard(ticket)
                raise
        self._monitor.check()
        return verdict

    def verify_many(self, samples: Sequence[Sample | tuple[str, str]]) -> list[Verdict]:
        """Scores samples, or pairs (response, reference), in order: one verdict each, whatever happens.

        Raises VerifierError when the pool is closed or its processes cannot start.
        """
        # No back-pressure: the caller holds all samples already.
        batch = _Batch(
            [item if isinstance(item, Sample) else Sample(response=item[0], reference=item[1]) for item in samples]
        )
        self._enqueue(batch.tickets)
        return batch.wait()

    def pids(self) -> list[int]:
        """The process ids of the present verifier processes."""
        return [pid for slot in self._slots if (pid := slot.pid) is not None]

    def take_deaths(self) -> tuple[ProcessDeath, ...]:
        """Deaths of processes that have been replaced since the last call."""
        return tuple(self._deaths.get() for _ in range(self._deaths.qsize()))

    @property
    def idle_s(self) -> float:
        """Seconds since the last verdict, or since the start."""
        return time.monotonic() - self._last_verdict_s

    def start_over(self) -> None:
        """Forgets earlier samples, as a new pool; the processes go on. Call it while no sample is open."""
        self._monitor = UnverifiableMonitor(self.config)
        self._hung.forget()
        self.take_deaths()

    def close(self) -> None:
        """Kills the processes; samples without a verdict fail with VerifierError. Safe to call twice."""
        self._break(VerifierError("the verifier pool is closed"))
        self._stopping.set()
        for slot in self._slots:
            slot.kill()
        for tickets in self._tickets.values():
            for _ in self._threads:
                tickets.put(None)
        for thread in self._threads:
            thread.join(timeout=_JOIN_S)

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _enqueue(self, tickets: Sequence[Ticket]) -> None:
        with self._lock:
            if self._failure:
                raise self._failure
            self._pending.update(tickets)
        for ticket in tickets:
            self._tickets.get(self.config.reward_for(ticket.sample.source), self._tickets[""]).put(ticket)

    def _resolve(self, ticket: Ticket, outcome: Outcome) -> None:
        """The first outcome counts; later outcomes, after the pool was closed or the caller cancelled, are ignored."""
        if isinstance(outcome, Verdict):
            self._last_verdict_s = time.monotonic()
        try:
            self._pending.remove(ticket)
        except KeyError:
            return
        if isinstance(outcome, Verdict):
            subject = f"verifier {self.config.reward_for(ticket.sample.source)!r}"
            self._monitor.record(subject, outcome.verifiable, outcome.reason)
        ticket.deliver(outcome)

    def _break(self, error: VerifierError) -> None:
        """Fails every call that waits, and every later call, with `error`."""
        with self._lock:
            self._failure = self._failure or error
            pending = list(self._pending)
        for ticket in pending:
            self._resolve(ticket, error)


class _Batch:
    """Samples handed in together, with one lock and one wait: a future per sample costs more than most verdicts."""

    def __init__(self, samples: list[Sample]) -> None:
        self._outcomes: dict[int, Outcome] = {}
        self._lock = threading.Lock()
        self._done = threading.Event()
        self.tickets = [Ticket(sample, partial(self._put, index)) for index, sample in enumerate(samples)]

    def wait(self) -> list[Verdict]:
        """All verdicts, in order. Raises the first VerifierError once every sample has an outcome."""
        if self.tickets:
            self._done.wait()
        verdicts = []
        for _, outcome in sorted(self._outcomes.items()):
            if isinstance(outcome, VerifierError):
                raise outcome
            verdicts.append(outcome)
        return verdicts

    def _put(self, index: int, outcome: Outcome) -> None:
        with self._lock:
            self._outcomes[index] = outcome
            if len(self._outcomes) == len(self.tickets):
                self._done.set()


def _settle(future: asyncio.Future[Verdict], outcome: Outcome) -> None:
    if future.cancelled():
        return
    if isinstance(outcome, VerifierError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
