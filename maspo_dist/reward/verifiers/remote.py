"""`http(s)://…`: a verifier on another machine.

    POST {"samples": [{"response": …, "reference": …, "source": …}, …]}
      →  {"verdicts": [{"reward": 1.0, "status": "correct", "extracted": "4", "reason": ""}, …]}

One verdict per sample, in order; only `reward` is required. A request without samples is the health check.
A failed request is retried after growing pauses, as long as the deadline of the batch allows.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import httpx
from pydantic import BeforeValidator, Field, StrictBool, TypeAdapter, ValidationError

from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.errors import VerifierError
from maspo_dist.reward.sample import Sample, make_verdict, reward_problem, status_of
from maspo_dist.types import Verdict, VerdictStatus

_REQUEST_ERRORS = (OSError, ValueError, httpx.HTTPError, httpx.InvalidURL)
_MAX_REPLY_BYTES = 64 << 20
_Text = Annotated[str | None, BeforeValidator(lambda value: None if value is None else str(value))]


@dataclass(frozen=True, slots=True)
class _Row:
    """One verdict of a reply."""

    reward: StrictBool | Annotated[float, Field(strict=True, allow_inf_nan=False)]
    status: VerdictStatus | None = None
    extracted: _Text = None
    reason: _Text = None


@dataclass(frozen=True, slots=True)
class _Reply:
    verdicts: list[_Row]


_REPLY = TypeAdapter(_Reply)


class RemoteVerifier:
    """Asks one URL. One thread makes, uses and closes it."""

    def __init__(self, url: str, config: VerifierConfig) -> None:
        """Raises VerifierError when the health check gets no answer within `timeout_s`."""
        self._url = url
        self._timeout_s = config.timeout_s
        self._remote = config.remote
        self._runner = asyncio.Runner()
        # httpx bounds single reads; the whole request is bounded in `_ask`.
        self._client = httpx.AsyncClient(timeout=None)
        try:
            self._runner.run(self._ask([]))
        except _REQUEST_ERRORS as error:
            self.close()
            raise VerifierError(f"verifier {url!r} is not healthy: {error or type(error).__name__}") from None

    def score(self, sample: Sample) -> Verdict:
        """One sample, in a request of its own."""
        return self.score_batch([sample])[0]

    def score_batch(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict per sample, within the deadline; `timeout` or `error` for all when the request fails."""
        started = time.monotonic()
        status: VerdictStatus
        try:
            return self._runner.run(self._ask(samples))
        except TimeoutError:
            status, reason = "timeout", "no reply within the deadline"
        except _REQUEST_ERRORS as error:
            status, reason = "error", str(error) or type(error).__name__
        return [make_verdict(status, started, reason=f"remote verifier: {reason}") for _ in samples]

    def close(self) -> None:
        """Closes the connections."""
        self._runner.run(self._client.aclose())
        self._runner.close()

    async def _ask(self, samples: Sequence[Sample]) -> list[Verdict]:
        # ASCII, so that lone surrogates travel as escapes.
        body = json.dumps({"samples": [asdict(sample) for sample in samples]}).encode("ascii")
        pause_s = self._remote.backoff_s
        async with asyncio.timeout(self._timeout_s) as deadline:
            for retries_left in range(self._remote.retries, -1, -1):
                started = time.monotonic()
                try:
                    return _read_verdicts(await self._post(body), len(samples), started)
                except _REQUEST_ERRORS as error:
                    refused = isinstance(error, httpx.HTTPStatusError) and error.response.is_client_error
                    ends_s = deadline.when() or 0.0
                    if refused or not retries_left or asyncio.get_running_loop().time() + pause_s >= ends_s:
                        raise
                await asyncio.sleep(pause_s)
                pause_s *= 2
        raise AssertionError("the last attempt returns or raises")

    async def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        async with self._client.stream("POST", self._url, content=body, headers=headers) as response:
            response.raise_for_status()
            reply = bytearray()
            async for chunk in response.aiter_bytes():
                reply += chunk
                if len(reply) > _MAX_REPLY_BYTES:
                    raise ValueError(f"the reply is longer than {_MAX_REPLY_BYTES} bytes")
        return bytes(reply)


def _read_verdicts(data: bytes, count: int, started: float) -> list[Verdict]:
    """Raises ValueError for a reply that is not `count` verdicts."""
    try:
        rows = _REPLY.validate_python(json.loads(data)).verdicts
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(
            f"the reply is no list of verdicts: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from None
    except RecursionError:
        raise ValueError("the reply is nested too deeply") from None
    if len(rows) != count:
        raise ValueError(f"the reply holds {len(rows)} verdicts for {count} samples")
    return [_verdict(row, started) for row in rows]


def _verdict(row: _Row, started: float) -> Verdict:
    reward = float(row.reward)
    if problem := reward_problem(reward):
        return make_verdict("error", started, reason=f"remote verifier: {problem}")
    status = row.status or status_of(reward)
    return make_verdict(status, started, reward=reward, extracted=row.extracted, reason=row.reason or "")
