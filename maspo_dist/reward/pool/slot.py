"""One seat of the pool: a thread that keeps one verifier process alive and busy.

    starting ── Ready ──► idle ◄── last verdict ── serving
        ▲                  └────── tickets ──────────►│
        └── killed ◄── deadline passed, process died, or spent

Jobs are sent ahead so that the process never waits; their deadlines start one after the other, each when the
verdict before it is read. Jobs that a killed process had not begun go back to the queue.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.errors import VerifierError
from maspo_dist.reward.pool.memory import VerdictMemory
from maspo_dist.reward.pool.process import VerifierProcess
from maspo_dist.reward.pool.ticket import Outcome, Ticket
from maspo_dist.reward.pool.wire import Recall, Recalled, Remember, Scored
from maspo_dist.types import Verdict, VerdictStatus

#: Jobs sent ahead, and the bytes they may take: what a socket buffer holds without a reader.
_AHEAD_JOBS = 64
_AHEAD_BYTES = 96_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessDeath:
    """A verifier process that died by itself or by another's hand, and the time until the next one gave a verdict."""

    slot: str
    reason: str
    seconds: float


class Slot(threading.Thread):
    """Serves tickets from `tickets` until `stop`. A start that fails breaks the pool through `on_broken`."""

    def __init__(
        self,
        name: str,
        config: VerifierConfig,
        tickets: queue.SimpleQueue[Ticket | None],
        memory: VerdictMemory,
        on_outcome: Callable[[Ticket, Outcome], None],
        on_broken: Callable[[VerifierError], None],
        on_death: Callable[[ProcessDeath], None],
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._config = config
        self._tickets = tickets
        self._memory = memory
        self._on_outcome = on_outcome
        self._on_broken = on_broken
        self._on_death = on_death
        self._death: tuple[str, float] | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._process: VerifierProcess | None = None
        self._ahead: deque[Ticket] = deque()
        self._sent = 0
        self._announced: str | None = None

    @property
    def pid(self) -> int | None:
        """Of the process that serves now."""
        process = self._process
        return process.pid if process else None

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                process = self._ensure_process()
                if self._fill():
                    self._serve(process)
        except VerifierError as error:
            if not self._stopping.is_set():
                self._on_broken(error)
        finally:
            self._drop_process()
            for ticket in self._ahead:
                self._tickets.put(ticket)

    def stop(self) -> None:
        """Ends the thread soon; kills the process, whatever it is doing. One that waits for a ticket takes None."""
        self._stopping.set()
        with self._lock:
            if self._process:
                self._process.kill()

    def _ensure_process(self) -> VerifierProcess:
        with self._lock:
            if self._process is None:
                self._process = VerifierProcess(self._config)
                self._sent = 0
            return self._process

    def _fill(self) -> bool:
        """Waits for a first ticket, then takes more that fit. False when there is nothing to serve."""
        if not self._ahead:
            ticket = self._tickets.get()
            if ticket is None:
                return False
            self._ahead.append(ticket)
        # What is sent ahead waits behind a slow sample: only a share of what waits anyway is.
        room = min(_AHEAD_JOBS, 1 + self._tickets.qsize() // (2 * self._config.workers))
        if len(self._ahead) > room // 2:
            # Topping up in halves keeps the number of writes low.
            return True
        size = sum(len(ticket.frame) for ticket in self._ahead)
        while len(self._ahead) < room and size < _AHEAD_BYTES:
            try:
                ticket = self._tickets.get_nowait()
            except queue.Empty:
                break
            if ticket is None or size + len(ticket.frame) > _AHEAD_BYTES:
                self._tickets.put(ticket)
                break
            size += len(ticket.frame)
            self._ahead.append(ticket)
        return True

    def _serve(self, process: VerifierProcess) -> None:
        """Sends what is not sent yet, then takes the verdicts that come: on the oldest ticket and maybe on more."""
        started = time.monotonic()
        deadline = started + self._config.timeout_s
        try:
            self._send(process, deadline)
            for scored in self._await_scored(process, deadline):
                self._tell_of_death()
                if self._sent:
                    self._sent -= 1
                    self._on_outcome(self._ahead.popleft(), scored.verdict)
                if scored.spent or not self._sent:
                    # Whatever is said after that was not asked for.
                    break
            if scored.spent or process.connection.has_more:
                self._drop_process()
        except TimeoutError:
            self._drop_process()
            self._fail_oldest("timeout", f"no verdict within {self._config.timeout_s:g} s", started)
        except (EOFError, OSError, ValueError):
            death = process.death()
            self._drop_process()
            self._death = (death, time.monotonic())
            self._ahead[0].deaths += 1
            if not self._stopping.is_set() and self._ahead[0].deaths > self._config.retries_after_death:
                self._fail_oldest("error", f"the verifier process died on this sample ({death})", started)

    def _send(self, process: VerifierProcess, deadline: float) -> None:
        frames = [ticket.frame for ticket in islice(self._ahead, self._sent, None)]
        if not frames:
            return
        # Of a process that is gone, verdicts may still be waiting to be read; reading them ends in EOFError.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            process.connection.send_frames(frames, deadline)
            self._sent = len(self._ahead)

    def _await_scored(self, process: VerifierProcess, deadline: float) -> Iterator[Scored]:
        """At least one, then those that have come with it."""
        self._announced = None
        served = False
        while not served or process.connection.has_more:
            message = process.receive(deadline, patient=self._sent > 1)
            if isinstance(message, Scored):
                served, self._announced = True, None
                yield message
            elif isinstance(message, Recall):
                self._announced = message.key
                process.connection.send(Recalled(self._memory.recall(message.key)), deadline=deadline)
            elif isinstance(message, Remember):
                self._memory.remember(message.key, message.verdict)

    def _tell_of_death(self) -> None:
        """Now that its successor serves."""
        if self._death is not None:
            reason, since_s = self._death
            self._death = None
            self._on_death(ProcessDeath(slot=self.name, reason=reason, seconds=time.monotonic() - since_s))

    def _fail_oldest(self, status: VerdictStatus, reason: str, started: float) -> None:
        seconds = time.monotonic() - started
        verdict = Verdict(reward=0.0, status=status, extracted=None, seconds=seconds, reason=reason)
        if self._announced:
            self._memory.remember(self._announced, verdict)
        self._on_outcome(self._ahead.popleft(), verdict)

    def _drop_process(self) -> None:
        """Kills the process; tickets that it had not begun are sent to the next one."""
        with self._lock:
            process, self._process = self._process, None
            if process:
                process.close()
