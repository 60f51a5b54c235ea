"""The boundary behind which a verifier may raise what it likes."""

from __future__ import annotations

import time
import traceback

from maspo_dist.reward.sample import Sample, Scorer
from maspo_dist.types import Verdict


def score_safely(scorer: Scorer, sample: Sample) -> tuple[Verdict, bool]:
    """The verdict, and whether the process is still sound: after running out of memory it is not."""
    started = time.monotonic()
    try:
        return scorer.score(sample), True
    except MemoryError:
        reason, sound = "out of memory", False
    except Exception as error:  # a process boundary: whatever a verifier raises is a verdict on the sample
        reason, sound = one_line(error), True
    seconds = time.monotonic() - started
    return Verdict(reward=0.0, status="error", extracted=None, seconds=seconds, reason=reason), sound


def one_line(error: BaseException) -> str:
    """An error in one line that can be written anywhere."""
    text = "".join(traceback.format_exception_only(error)).strip().replace("\n", " ")
    return text[:300].encode("utf-8", "backslashreplace").decode()
