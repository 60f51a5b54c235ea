"""What the learners trained on, as text: the rows of samples.jsonl."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from actors.interfaces import Body
from maspo_dist.errors import BodyLostError
from maspo_dist.types import FinishedGroup, RolloutGroup, SampleRow

logger = logging.getLogger(__name__)


class Decoder(Protocol):
    """Token ids to text."""

    def decode(self, token_ids: Sequence[int]) -> str: ...


async def sample_rows(
    step: int,
    groups: Sequence[FinishedGroup[Body]],
    fetch: Callable[[Body], Awaitable[RolloutGroup]],
    decoder: Decoder,
) -> list[SampleRow]:
    """One row per response, in order; no rows for a group whose body was lost with its node."""
    rows: list[SampleRow] = []
    for collected in groups:
        try:
            body = await fetch(collected.body)
        except BodyLostError as error:
            logger.warning("step %d: the text of group %d is lost: %s", step, collected.group_id, error)
            continue
        scored = collected.scored
        prompt = decoder.decode(body.prompt.token_ids.tolist())
        rows += [
            SampleRow(
                step=step,
                group_id=collected.group_id,
                prompt_id=body.prompt.prompt_id,
                source=body.prompt.source,
                prompt=prompt,
                response=rollout.text,
                reference=body.prompt.reference,
                reward=float(reward),
                status=verdict.status,
                extracted=verdict.extracted,
                seconds=verdict.seconds,
                reason=verdict.reason,
                finish_reason=rollout.finish_reason,
                components=dict(verdict.components),
            )
            for rollout, verdict, reward in zip(body.rollouts, scored.report.verdicts, scored.rewards, strict=True)
        ]
    return rows
