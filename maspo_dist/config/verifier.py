"""Settings of the verifier pool: the `reward` section."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from maspo_dist.config.algorithm import Section


class VerifierConfig(Section):
    """Which verifier scores what, and the limits under which it runs."""

    #: Verifier by data source; the rest go to `default`.
    verifiers: dict[str, str] = Field(default_factory=dict)
    default: str = "math"
    #: Verifier processes.
    workers: int = Field(2, ge=1)
    #: Hard wall-clock deadline of one verdict; past it the process is killed.
    timeout_s: float = Field(10.0, gt=0)
    #: Memory limit of one verifier process.
    memory_mb: int = Field(1024, ge=128)
    #: How answers are found: strict reads only the last box, lenient also prose, #### and the last number.
    extraction: Literal["strict", "lenient"] = "strict"
    #: Share of unverifiable samples over the last `unverifiable_window` at which the run stops.
    max_unverifiable_share: float = Field(0.2, gt=0, le=1)
    unverifiable_window: int = Field(256, ge=1)
