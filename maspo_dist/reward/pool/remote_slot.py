"""One seat of the pool for a remote scorer: a thread that gathers samples into requests."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable

from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.errors import VerifierError
from maspo_dist.reward.pool.ticket import Outcome, Ticket
from maspo_dist.reward.verifiers.remote import RemoteScorer


class RemoteSlot(threading.Thread):
    """Serves tickets of one URL until `stop`. A scorer that fails its health check breaks the pool."""

    def __init__(
        self,
        url: str,
        config: VerifierConfig,
        tickets: queue.SimpleQueue[Ticket | None],
        on_outcome: Callable[[Ticket, Outcome], None],
        on_broken: Callable[[VerifierError], None],
    ) -> None:
        super().__init__(name=f"verifier-{url}", daemon=True)
        self._url = url
        self._config = config
        self._tickets = tickets
        self._on_outcome = on_outcome
        self._on_broken = on_broken
        self._stopping = threading.Event()

    def run(self) -> None:
        try:
            scorer = RemoteScorer(self._url, self._config)
        except VerifierError as error:
            self._on_broken(error)
            return
        while not self._stopping.is_set():
            batch = self._gather()
            verdicts = scorer.score_batch([ticket.sample for ticket in batch]) if batch else []
            for ticket, verdict in zip(batch, verdicts, strict=True):
                self._on_outcome(ticket, verdict)

    def stop(self) -> None:
        """Ends the thread after the request under way. One that waits for a ticket takes None."""
        self._stopping.set()

    def _gather(self) -> list[Ticket]:
        """Waits for a first ticket, then a moment for more."""
        first = self._tickets.get()
        batch = [] if first is None else [first]
        until = time.monotonic() + self._config.remote.batch_wait_s
        with contextlib.suppress(queue.Empty):
            while batch and len(batch) < self._config.remote.batch_size:
                ticket = self._tickets.get(timeout=max(until - time.monotonic(), 0.0))
                if ticket is None:
                    # Another thread's, or ours: either way it is seen again.
                    self._tickets.put(None)
                    break
                batch.append(ticket)
        return batch
