"""The threads of the pool. Each `Slot` keeps one verifier process alive and busy:

    starting ── Started ──► idle ◄── last verdict ── serving
        ▲                    └────── tickets ──────────►│
        └── killed ◄── deadline passed, process died, or spent

A slot sends several samples at once, so that its process never waits. Each has its own deadline, which starts when
the verdict before it is read. Samples that a killed process had not begun go to the next process.
A `RemoteSlot` gathers samples into requests to one URL.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.errors import VerifierError
from maspo_dist.reward.pool.hung import HungSamples
from maspo_dist.reward.pool.process import VerifierProcess
from maspo_dist.reward.pool.wire import Scored, encode
from maspo_dist.reward.registry import remote_verifier
from maspo_dist.reward.sample import Sample, make_verdict
from maspo_dist.types import Verdict, VerdictStatus

#: Samples sent together, and their bytes: more than a socket buffer holds would block the thread that reads.
_SENT_SAMPLES = 64
_SENT_BYTES = 96_000
#: Pause per verdict that is due, so that several gather: a wake-up of the pool costs as much as a verdict.
_GATHER_S = 0.0001

Outcome = Verdict | VerifierError


@dataclass(slots=True, eq=False)
class Ticket:
    """A sample in the pool. The pool calls `deliver` exactly once; `deaths` counts processes that died on it."""

    sample: Sample
    deliver: Callable[[Outcome], None]
    deaths: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessDeath:
    """A verifier process that died on its own or was killed from outside.

    `seconds` is the time from its death to the first verdict of the process that replaced it.
    """

    slot: str
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSide:
    """What a slot needs of its pool. `fail` breaks the whole pool; `tickets` yields None to end a thread."""

    config: VerifierConfig
    tickets: queue.SimpleQueue[Ticket | None]
    hung: HungSamples
    resolve: Callable[[Ticket, Outcome], None]
    fail: Callable[[VerifierError], None]
    report_death: Callable[[ProcessDeath], None]


class Slot(threading.Thread):
    """Serves tickets until `stop`. A process that cannot start breaks the pool."""

    def __init__(self, name: str, pool: PoolSide) -> None:
        super().__init__(name=name, daemon=True)
        self._pool = pool
        self._death: tuple[str, float] | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._process: VerifierProcess | None = None
        #: Taken and without a verdict, in order, each with its sample as a message.
        self._taken: deque[tuple[Ticket, bytes]] = deque()

    @property
    def pid(self) -> int | None:
        """The process id of the present process."""
        process = self._process
        return process.pid if process else None

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                process = self._ensure_process()
                if self._take():
                    self._serve(process)
        except VerifierError as error:
            if not self._stopping.is_set():
                self._pool.fail(error)
        finally:
            self._drop_process()
            for ticket, _ in self._taken:
                self._pool.tickets.put(ticket)

    def stop(self) -> None:
        """Kills the process, whatever it is doing, and ends the thread soon. A thread that waits for a ticket ends
        with a None among them."""
        self._stopping.set()
        with self._lock:
            if self._process:
                self._process.kill()

    def _ensure_process(self) -> VerifierProcess:
        with self._lock:
            if self._process is None:
                self._process = VerifierProcess(self._pool.config)
            return self._process

    def _take(self) -> bool:
        """Waits for a first ticket, then takes more that fit. False when there is nothing to serve."""
        if not self._taken:
            ticket = self._pool.tickets.get()
            if ticket is None:
                return False
            self._taken.append((ticket, encode(ticket.sample)))
        # Samples behind a slow one wait for it: take only a share of the queue.
        room = min(_SENT_SAMPLES, 1 + self._pool.tickets.qsize() // (2 * self._pool.config.workers))
        size = sum(len(line) for _, line in self._taken)
        with contextlib.suppress(queue.Empty):
            while len(self._taken) < room and size < _SENT_BYTES:
                ticket = self._pool.tickets.get_nowait()
                line = encode(ticket.sample) if ticket else b""
                size += len(line)
                if ticket is None or size > _SENT_BYTES:
                    self._pool.tickets.put(ticket)
                    break
                self._taken.append((ticket, line))
        self._answer_repeats()
        return bool(self._taken)

    def _answer_repeats(self) -> None:
        """Gives taken samples that hung lately their verdict again."""
        taken, self._taken = self._taken, deque()
        for ticket, line in taken:
            verdict = self._pool.hung.recall(ticket.sample)
            if verdict:
                self._pool.resolve(ticket, verdict)
            else:
                self._taken.append((ticket, line))

    def _serve(self, process: VerifierProcess) -> None:
        """Sends the taken samples and reads their verdicts, until all are in or the process has to be replaced."""
        started = time.monotonic()
        try:
            # A process that is gone may have left verdicts to read; reading them ends in EOFError.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                lines = b"".join(line for _, line in self._taken)
                process.connection.send(lines, started + self._pool.config.timeout_s)
            spent = False
            while self._taken and not spent:
                if len(self._taken) > 1 and not process.connection.has_more:
                    time.sleep(_GATHER_S * len(self._taken))
                scored = process.connection.receive(Scored, started + self._pool.config.timeout_s)
                self._report_death()
                hangs = self._resolve_first(scored.verdict)
                # A repeat that was sent already would hang again.
                spent = scored.spent or (hangs and any(self._pool.hung.recall(t.sample) for t, _ in self._taken))
                started = time.monotonic()
            if spent or process.connection.has_more:
                # More verdicts than samples: whatever scored them cannot be trusted any longer.
                self._drop_process()
        except TimeoutError:
            self._drop_process()
            self._fail_first("timeout", f"no verdict within {self._pool.config.timeout_s:g} s", started)
        except (EOFError, OSError, ValueError):
            death = process.death()
            self._drop_process()
            self._death = (death, time.monotonic())
            first = self._taken[0][0]
            first.deaths += 1
            if not self._stopping.is_set() and first.deaths > self._pool.config.retries_after_death:
                self._fail_first("error", f"the verifier process died on this sample ({death})", started)

    def _report_death(self) -> None:
        """Called once the successor serves."""
        if self._death is not None:
            reason, since_s = self._death
            self._death = None
            self._pool.report_death(ProcessDeath(slot=self.name, reason=reason, seconds=time.monotonic() - since_s))

    def _fail_first(self, status: VerdictStatus, reason: str, started: float) -> None:
        self._resolve_first(make_verdict(status, started, reason=reason))

    def _resolve_first(self, verdict: Verdict) -> bool:
        """Resolves the first taken sample. Whether it hung."""
        ticket, _ = self._taken.popleft()
        hangs = verdict.status == "timeout"
        if hangs:
            self._pool.hung.remember(ticket.sample, verdict)
        self._pool.resolve(ticket, verdict)
        return hangs

    def _drop_process(self) -> None:
        with self._lock:
            process, self._process = self._process, None
            if process:
                process.close()


class RemoteSlot(threading.Thread):
    """Serves tickets of one URL until `stop`. A verifier that fails its health check breaks the pool."""

    def __init__(self, url: str, pool: PoolSide) -> None:
        super().__init__(name=f"verifier-{url}", daemon=True)
        self._url = url
        self._pool = pool
        self._stopping = threading.Event()

    def run(self) -> None:
        try:
            verifier = remote_verifier(self._url, self._pool.config)
        except VerifierError as error:
            self._pool.fail(error)
            return
        with contextlib.closing(verifier):
            while not self._stopping.is_set():
                batch = self._gather()
                verdicts = verifier.score_batch([ticket.sample for ticket in batch]) if batch else []
                for ticket, verdict in zip(batch, verdicts, strict=True):
                    self._pool.resolve(ticket, verdict)

    def stop(self) -> None:
        """Ends the thread after its present request. A thread that waits for a ticket ends with a None among them."""
        self._stopping.set()

    def _gather(self) -> list[Ticket]:
        """Waits for a first ticket, then a moment for more."""
        first = self._pool.tickets.get()
        batch = [] if first is None else [first]
        remote = self._pool.config.remote
        until = time.monotonic() + remote.batch_wait_s
        with contextlib.suppress(queue.Empty):
            while batch and len(batch) < remote.batch_size:
                ticket = self._pool.tickets.get(timeout=max(until - time.monotonic(), 0.0))
                if ticket is None:
                    # Perhaps meant for another thread: put it back for whoever waits next.
                    self._pool.tickets.put(None)
                    break
                batch.append(ticket)
        return batch
