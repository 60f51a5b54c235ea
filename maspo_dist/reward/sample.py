"""What is scored, and what scores it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from maspo_dist.types import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One response to score against its reference; `source` picks the verifier."""

    response: str
    reference: str
    source: str = ""


class Memo(Protocol):
    """Verdicts on answers already judged, shared by all processes of a pool.

    A scorer asks before it does slow work, and leaves what it found. Keys are digests.
    """

    def recall(self, key: str) -> Verdict | None: ...

    def remember(self, key: str, verdict: Verdict) -> None: ...


class Scorer(Protocol):
    """One verifier. May raise: the caller turns that into an `error` verdict."""

    def score(self, sample: Sample) -> Verdict: ...


class NoMemo:
    """Remembers nothing; for use outside a pool."""

    def recall(self, key: str) -> Verdict | None:
        return None

    def remember(self, key: str, verdict: Verdict) -> None:
        return None
