"""Scores the samples of a finished run again, with another verifier."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.errors import DataError
from maspo_dist.reward.pool.verifier_pool import VerifierPool
from maspo_dist.reward.sample import Sample
from maspo_dist.types import UNVERIFIABLE, Verdict

_BATCH_ROWS = 512
_NEEDED = ("response", "response_start", "reference", "source", "reward", "scored_by", "status")


@dataclass(frozen=True, slots=True, kw_only=True)
class RescoreSummary:
    """What changed. `gained` became correct, `lost` were correct; `unverifiable` have no new verdict. `samples` leaves
    out those that an environment had scored, which are counted by `by_environment`.

    `reward_before` is the mean over the samples with an old verdict, `reward_after` over those with a new verdict, as
    reward/mean of a run is.
    """

    samples: int
    agreed: int
    gained: int
    lost: int
    unverifiable: int
    by_environment: int
    reward_before: float
    reward_after: float

    def __str__(self) -> str:
        left = f"; {self.by_environment} scored by an environment: left as they are" if self.by_environment else ""
        return (
            f"{self.samples} samples: {self.agreed} as before, {self.gained} now correct, {self.lost} no longer, "
            f"{self.unverifiable} unverifiable; "
            f"mean reward {self.reward_before:.4f} before, {self.reward_after:.4f} now{left}"
        )


def rescore(samples: Path, output: Path, config: VerifierConfig) -> RescoreSummary:
    """Scores each row of `samples` (a samples.jsonl) by `config` and writes the rows to `output`.

    The old verdict stays as `reward_before` and `status_before`. Only `reward_before` includes an overlong penalty,
    which the trainer adds, not a verifier. Rows that an environment had scored are written as they are: a verifier sees
    only the last turn.

    Raises DataError naming file and line for a row that cannot be scored, VerifierError when the pool cannot start.
    """
    if output.resolve() == samples.resolve():
        raise DataError(f"{output} is the file to read: give the new scores a file of their own")
    rows = _read_rows(samples)
    pairs: list[tuple[dict[str, Any], Verdict]] = []
    by_environment = 0
    with VerifierPool(config) as pool, output.open("w", encoding="utf-8") as file:
        while batch := list(islice(rows, _BATCH_ROWS)):
            verdicts = iter(pool.verify_many([_sample(row) for row in batch if _is_for_a_verifier(row)]))
            for row in batch:
                if not _is_for_a_verifier(row):
                    file.write(json.dumps(row) + "\n")
                    by_environment += 1
                    continue
                verdict = next(verdicts)
                file.write(json.dumps(_rescored(row, verdict)) + "\n")
                pairs.append(({"status": row["status"], "reward": float(row["reward"])}, verdict))
    return _summary(pairs, by_environment)


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        file = path.open(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    with file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except ValueError:
                if not line.endswith("\n"):
                    # The run is writing it, or was killed while it wrote.
                    return
                raise DataError(f"{path}, line {number}: not JSON") from None
            missing = [name for name in _NEEDED if not isinstance(row, dict) or name not in row]
            if missing:
                raise DataError(
                    f"{path}, line {number}: no {', '.join(missing)}; is it the samples.jsonl of a run of this version?"
                )
            yield row


def _is_for_a_verifier(row: dict[str, Any]) -> bool:
    return bool(row["scored_by"] == "verifier")


def _sample(row: dict[str, Any]) -> Sample:
    response = row["response_start"] + row["response"]
    return Sample(response=response, reference=row["reference"], source=row["source"])


def _rescored(row: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
    before = {"reward_before": row["reward"], "status_before": row["status"]}
    return {**row, **asdict(verdict), "components": dict(verdict.components), **before}


def _summary(pairs: list[tuple[dict[str, Any], Verdict]], by_environment: int) -> RescoreSummary:
    verifiable = [(row["status"] == "correct", verdict) for row, verdict in pairs if verdict.verifiable]
    before = [row["reward"] for row, _ in pairs if row["status"] not in UNVERIFIABLE]
    changes = Counter((was_correct, verdict.status == "correct") for was_correct, verdict in verifiable)
    return RescoreSummary(
        samples=len(pairs),
        agreed=changes[True, True] + changes[False, False],
        gained=changes[False, True],
        lost=changes[True, False],
        unverifiable=len(pairs) - len(verifiable),
        by_environment=by_environment,
        reward_before=sum(before) / max(len(before), 1),
        reward_after=sum(verdict.reward for _, verdict in verifiable) / max(len(verifiable), 1),
    )
