"""`http(s)://…`: a scorer on another machine.

    POST {"samples": [{"response": …, "reference": …, "source": …}, …]}
      →  {"verdicts": [{"reward": 1.0, "status": "correct", "extracted": "4", "reason": ""}, …]}

One verdict a sample, in order; only `reward` is required. A request without samples is the health check.
Failed requests are tried again, with growing pauses, as long as the deadline of the batch allows.
"""

from __future__ import annotations

import http.client
import json
import math
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.errors import VerifierError
from maspo_dist.reward.sample import Sample
from maspo_dist.types import Verdict, VerdictStatus

_STATUSES: dict[str, VerdictStatus] = {
    "correct": "correct",
    "wrong": "wrong",
    "unparsed": "unparsed",
    "timeout": "timeout",
    "error": "error",
}
_REQUEST_ERRORS = (OSError, ValueError, http.client.HTTPException)
_CORRECT_FROM = 0.5
_MAX_REPLY_BYTES = 64 << 20


class RemoteScorer:
    """Asks one URL. Safe between threads."""

    def __init__(self, url: str, config: VerifierConfig) -> None:
        """Raises VerifierError when the scorer does not answer the health check within `timeout_s`."""
        self._url = url
        self._timeout_s = config.timeout_s
        self._retries = config.remote.retries
        self._backoff_s = config.remote.backoff_s
        try:
            self._ask([], time.monotonic() + config.timeout_s)
        except _REQUEST_ERRORS as error:
            raise VerifierError(f"verifier {url!r} is not healthy: {error}") from None

    def score(self, sample: Sample) -> Verdict:
        """One sample, in a request of its own."""
        return self.score_batch([sample])[0]

    def score_batch(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, within the deadline; `timeout` or `error` for all when the request fails."""
        started = time.monotonic()
        try:
            return self._ask(samples, started + self._timeout_s)
        except TimeoutError as error:
            return [_failed("timeout", error, started) for _ in samples]
        except _REQUEST_ERRORS as error:
            return [_failed("error", error, started) for _ in samples]

    def _ask(self, samples: Sequence[Sample], deadline: float) -> list[Verdict]:
        body = json.dumps(
            {"samples": [{"response": s.response, "reference": s.reference, "source": s.source} for s in samples]}
        ).encode("ascii")
        pause_s = self._backoff_s
        for attempt in range(self._retries + 1):
            started = time.monotonic()
            try:
                return _read_verdicts(_post(self._url, body, deadline), len(samples), started)
            except TimeoutError:
                raise
            except _REQUEST_ERRORS as error:
                refused = isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500
                if refused or attempt == self._retries or time.monotonic() + pause_s >= deadline:
                    raise
            time.sleep(pause_s)
            pause_s *= 2
        raise AssertionError("the last attempt returns or raises")


def _post(url: str, body: bytes, deadline: float) -> bytes:
    """The reply, or TimeoutError at the deadline: in a thread, since socket time-outs bound single reads only."""
    reply: Future[bytes] = Future()

    def request() -> None:
        message = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(message, timeout=max(deadline - time.monotonic(), 0.001)) as response:
                reply.set_result(response.read(_MAX_REPLY_BYTES))
        except urllib.error.HTTPError as error:
            # It holds the connection.
            error.close()
            reply.set_exception(error)
        except Exception as error:  # carried over to the thread that waits
            reply.set_exception(error)

    threading.Thread(target=request, name="remote-verifier-request", daemon=True).start()
    try:
        return reply.result(timeout=max(deadline - time.monotonic(), 0.0))
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise TimeoutError("no reply within the deadline") from None
        raise


def _read_verdicts(reply: bytes, count: int, started: float) -> list[Verdict]:
    """Raises ValueError for a reply that is not `count` verdicts."""
    data = json.loads(reply)
    rows = data.get("verdicts") if isinstance(data, dict) else None
    if not isinstance(rows, list) or len(rows) != count:
        raise ValueError(f"the reply does not hold {count} verdicts")
    seconds = time.monotonic() - started
    return [_verdict(row, seconds) for row in rows]


def _verdict(row: Any, seconds: float) -> Verdict:
    if not isinstance(row, dict) or not isinstance(row.get("reward"), int | float):
        raise ValueError("a verdict of the reply has no reward")
    reward = float(row["reward"])
    if not math.isfinite(reward):
        raise ValueError(f"a verdict of the reply has reward {reward}")
    status = row.get("status", "correct" if reward >= _CORRECT_FROM else "wrong")
    if status not in _STATUSES:
        raise ValueError(f"a verdict of the reply has status {status!r}")
    extracted = row.get("extracted")
    return Verdict(
        reward=reward,
        status=_STATUSES[status],
        extracted=None if extracted is None else str(extracted),
        seconds=seconds,
        reason=str(row.get("reason", "")),
    )


def _failed(status: VerdictStatus, error: Exception, started: float) -> Verdict:
    seconds = time.monotonic() - started
    reason = f"remote scorer: {error or type(error).__name__}"
    return Verdict(reward=0.0, status=status, extracted=None, seconds=seconds, reason=reason[:300])
