"""The threads of the pool. Each `Slot` keeps one verifier process alive and busy:

    starting ── Started ──► idle ◄── last verdict ── serving
        ▲                    └────── tickets ──────────►│
        └── killed ◄── deadline passed, process died, or spent

A slot sends several samples at once, and more once half of them are judged, so that its process never waits. Each
sample has its own deadline, which starts when the verdict before it is read. Samples that a killed process had not
begun go to the next process.
`serve_remote` gathers samples into requests to one URL.

Every thread ends when `PoolSide.stopping` is set; a None among the tickets wakes it if it waits for work.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.errors import VerifierError
from maspo_dist.reward.pool.process import VerifierProcess
from maspo_dist.reward.pool.wire import Scored, encode
from maspo_dist.reward.registry import judged_part, remote_verifier
from maspo_dist.reward.sample import Sample, make_verdict
from maspo_dist.types import Verdict

logger = logging.getLogger(__name__)

#: Pauses between tries to start the next process: its node may be short of memory or processes for a while.
_START_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)
#: Samples sent together, and their bytes: more than a socket buffer holds would block the thread that reads.
_SENT_SAMPLES = 64
_SENT_BYTES = 96_000
#: Pause per verdict that is due, so that several gather: a wake-up of the pool costs as much as a verdict.
_GATHER_S = 0.0001
#: A busy machine may have caused the timeout: remember it for the responses of a group, not for the run.
_HUNG_S = 60.0
_MOST_HUNG = 1_024

Outcome = Verdict | VerifierError


class HungSamples:
    """The last `timeout` verdicts, at most 1,024 and each for 60 seconds; safe between threads.

    Samples of one source and reference that share the judged part of their responses share the verdict.
    """

    def __init__(self, config: VerifierConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._lock = threading.Lock()
        self._verdicts: dict[tuple[str, str, str], tuple[Verdict, float]] = {}
        #: Reference and source of each: a cheap look, before the answer of a response is read.
        self._problems: frozenset[tuple[str, str]] = frozenset()

    def recall(self, sample: Sample) -> Verdict | None:
        """The verdict on `sample`, while it is remembered."""
        if (sample.reference, sample.source) not in self._problems:
            return None
        verdict, since = self._verdicts.get(self._key(sample), (None, 0.0))
        return verdict if self._clock() - since <= _HUNG_S else None

    def remember(self, sample: Sample, verdict: Verdict) -> None:
        key = self._key(sample)
        with self._lock:
            self._verdicts.pop(key, None)
            if len(self._verdicts) == _MOST_HUNG:
                del self._verdicts[next(iter(self._verdicts))]
            self._verdicts[key] = (verdict, self._clock())
            self._problems = frozenset((reference, source) for _, reference, source in self._verdicts)

    def forget(self) -> None:
        with self._lock:
            self._verdicts = {}
            self._problems = frozenset()

    def _key(self, sample: Sample) -> tuple[str, str, str]:
        return judged_part(sample, self._config), sample.reference, sample.source


@dataclass(slots=True, eq=False)
class Ticket:
    """A sample in the pool.

    deliver        the pool calls it at most once
    deaths         processes that died on the sample
    is_withdrawn   nobody waits for the verdict: no process gets the sample any more
    """

    sample: Sample
    deliver: Callable[[Outcome], None]
    deaths: int = 0
    is_withdrawn: bool = False


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
    """What a thread needs of its pool. `fail` breaks the whole pool."""

    config: VerifierConfig
    tickets: queue.SimpleQueue[Ticket | None]
    stopping: threading.Event
    hung: HungSamples
    resolve: Callable[[Ticket, Outcome], None]
    fail: Callable[[VerifierError], None]
    report_death: Callable[[ProcessDeath], None]


class Slot(threading.Thread):
    """Serves tickets. It breaks the pool if its first process cannot start, or if a later process does not start in
    several tries.
    """

    def __init__(self, name: str, pool: PoolSide) -> None:
        super().__init__(name=name, daemon=True)
        self._pool = pool
        self._death: tuple[str, float] | None = None
        self._has_started = False
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
            while not self._pool.stopping.is_set():
                process = self._ensure_process()
                # Samples that a process left behind are the first of the next process.
                self._taken = deque(taken for taken in self._taken if not self._skip(taken[0]))
                if not self._taken:
                    self._take(wait=True)
                if self._taken:
                    self._serve(process)
        except VerifierError as error:
            if not self._pool.stopping.is_set():
                self._pool.fail(error)
        finally:
            self._drop_process()

    def kill(self) -> None:
        """Kills the process at once."""
        with self._lock:
            if self._process:
                self._process.kill()

    def _ensure_process(self) -> VerifierProcess:
        for pause_s in _START_PAUSES_S if self._has_started else ():
            try:
                return self._start_process()
            except VerifierError as error:
                logger.warning("%s: %s; it is tried again in %g s", self.name, error, pause_s)
            self._pool.stopping.wait(pause_s)
        return self._start_process()

    def _start_process(self) -> VerifierProcess:
        """The present process; starts one if there is none."""
        with self._lock:
            if self._process is None:
                self._process = VerifierProcess(self._pool.config)
                self._has_started = True
            return self._process

    def _take(self, *, wait: bool) -> bytes:
        """Takes more tickets that fit beside those taken, and returns their samples as messages.

        With `wait`, it waits for the first of them. A sample that hung lately gets its verdict again.
        """
        tickets = self._pool.tickets
        size = sum(len(line) for _, line in self._taken)
        lines = []
        with contextlib.suppress(queue.Empty):
            while len(self._taken) < self._room() and size < _SENT_BYTES and (ticket := tickets.get(block=wait)):
                wait = False
                if self._skip(ticket):
                    continue
                line = encode(ticket.sample)
                if self._taken and size + len(line) > _SENT_BYTES:
                    tickets.put(ticket)
                    break
                self._taken.append((ticket, line))
                lines.append(line)
                size += len(line)
        return b"".join(lines)

    def _room(self) -> int:
        """How many samples the process may have. Samples behind a slow one wait for it: only a share of the queue."""
        return min(_SENT_SAMPLES, 1 + self._pool.tickets.qsize() // (2 * self._pool.config.workers))

    def _skip(self, ticket: Ticket) -> bool:
        """Whether no process should get its sample: it is withdrawn, or it hung lately and gets that verdict again."""
        if ticket.is_withdrawn:
            return True
        verdict = self._pool.hung.recall(ticket.sample)
        if verdict:
            self._pool.resolve(ticket, verdict)
        return verdict is not None

    def _serve(self, process: VerifierProcess) -> None:
        """Sends the taken samples, then more, and reads verdicts, until all are in or the process must be replaced."""
        timeout_s = self._pool.config.timeout_s
        started = time.monotonic()
        try:
            self._send(process, b"".join(line for _, line in self._taken), started + timeout_s)
            spent = False
            while self._taken and not spent:
                if len(self._taken) > 1 and not process.connection.has_more:
                    time.sleep(_GATHER_S * len(self._taken))
                scored = process.connection.receive(Scored, started + timeout_s)
                if scored.number != process.verdicts + 1:
                    raise ValueError("a verdict on another sample")
                process.verdicts += 1
                self._report_death()
                self._resolve_first(scored.verdict)
                # A repeat that was sent already would hang again.
                hangs = scored.verdict.status == "timeout" and any(map(self._hung_lately, self._taken))
                spent = scored.spent or hangs
                started = time.monotonic()
                if not spent and not self._pool.stopping.is_set() and 2 * len(self._taken) <= self._room():
                    self._send(process, self._take(wait=False), started + timeout_s)
            if spent or process.connection.has_more:
                # A process that sends more verdicts than it got samples cannot be trusted any longer.
                self._drop_process()
        except TimeoutError:
            self._drop_process()
            self._resolve_first(make_verdict("timeout", started, reason=f"no verdict within {timeout_s:g} s"))
        except (EOFError, OSError, ValueError):
            death = process.death()
            self._drop_process()
            self._death = (death, time.monotonic())
            first = self._taken[0][0]
            first.deaths += 1
            if not self._pool.stopping.is_set() and first.deaths > self._pool.config.retries_after_death:
                reason = f"the verifier process died on this sample ({death})"
                self._resolve_first(make_verdict("error", started, reason=reason))

    def _send(self, process: VerifierProcess, lines: bytes, deadline: float) -> None:
        # A process that is gone may have left verdicts to read; reading them ends in EOFError.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            process.connection.send(lines, deadline)

    def _report_death(self) -> None:
        """Called once the successor serves."""
        if self._death is not None:
            reason, since_s = self._death
            self._death = None
            self._pool.report_death(ProcessDeath(slot=self.name, reason=reason, seconds=time.monotonic() - since_s))

    def _resolve_first(self, verdict: Verdict) -> None:
        ticket, _ = self._taken.popleft()
        if verdict.status == "timeout":
            self._pool.hung.remember(ticket.sample, verdict)
        self._pool.resolve(ticket, verdict)

    def _hung_lately(self, taken: tuple[Ticket, bytes]) -> bool:
        return self._pool.hung.recall(taken[0].sample) is not None

    def _drop_process(self) -> None:
        with self._lock:
            process, self._process = self._process, None
            if process:
                process.close()


def serve_remote(url: str, pool: PoolSide) -> None:
    """Serves tickets of the verifier at `url`. A verifier that fails its health check breaks the pool."""
    try:
        verifier = remote_verifier(url, pool.config)
    except VerifierError as error:
        pool.fail(error)
        return
    with contextlib.closing(verifier):
        while not pool.stopping.is_set():
            batch = _gather(pool)
            verdicts = verifier.score_batch([ticket.sample for ticket in batch]) if batch else []
            for ticket, verdict in zip(batch, verdicts, strict=True):
                pool.resolve(ticket, verdict)


def _gather(pool: PoolSide) -> list[Ticket]:
    """Waits for a first ticket, then a moment for more."""
    batch: list[Ticket] = []
    ticket = pool.tickets.get()
    until = time.monotonic() + pool.config.remote.batch_wait_s
    with contextlib.suppress(queue.Empty):
        while ticket:
            if not ticket.is_withdrawn:
                batch.append(ticket)
            if len(batch) == pool.config.remote.batch_size:
                break
            ticket = pool.tickets.get(timeout=max(until - time.monotonic(), 0.0))
    return batch
