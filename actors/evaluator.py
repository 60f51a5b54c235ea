"""Scores of the policy on held-out problems, through the same workers and verifiers as training."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np

from actors.boundaries import RolloutPool
from actors.group_stream import group_seed
from maspo_dist.config import TrainConfig
from maspo_dist.evaluation import avg_at_k, pass_at_k
from maspo_dist.types import GroupReport, Prompt, RolloutRequest, Sampling

#: Evaluation groups are numbered below zero: they are in no ledger.
_FIRST_GROUP = -1


class Evaluator:
    """Evaluates every held-out set on whatever policy version the pool serves."""

    def __init__(self, config: TrainConfig, pool: RolloutPool, prompts: Mapping[str, Sequence[Prompt]]) -> None:
        self._config = config
        self._pool = pool
        self._prompts = prompts
        self._sampling = Sampling(
            temperature=config.evaluation.temperature,
            max_response_tokens=config.evaluation.max_response_tokens or config.rollout.max_response_tokens,
        )

    async def evaluate(self) -> dict[str, float]:
        """eval/<name>/avg@k, pass@k, response_tokens_mean, truncated_share and unverifiable_share, k = samples.

        A response without a verdict counts as not solved here, since every problem must count once; its
        share is reported.
        """
        metrics: dict[str, float] = {}
        for name, prompts in self._prompts.items():
            reports = await asyncio.gather(
                *(self._sample(_FIRST_GROUP - index, prompt) for index, prompt in enumerate(prompts))
            )
            metrics |= _metrics(f"eval/{name}", reports, self._config.evaluation.samples)
        return metrics

    async def _sample(self, group_id: int, prompt: Prompt) -> GroupReport:
        request = RolloutRequest(
            group_id=group_id,
            attempt=0,
            prompt=prompt,
            num_samples=self._config.evaluation.samples,
            sampling=self._sampling,
            seed=group_seed(self._config.run.seed, -group_id),
        )
        report, _ = await self._pool.generate(request)
        return report


def _metrics(prefix: str, reports: Sequence[GroupReport], samples: int) -> dict[str, float]:
    correct = np.asarray([[verdict.status == "correct" for verdict in report.verdicts] for report in reports])
    verifiable = np.asarray([[verdict.verifiable for verdict in report.verdicts] for report in reports])
    tokens = np.concatenate([report.response_tokens for report in reports])
    truncated = np.concatenate([report.truncated for report in reports])
    return {
        f"{prefix}/avg@{samples}": avg_at_k(correct),
        f"{prefix}/pass@{samples}": pass_at_k(correct, samples),
        f"{prefix}/response_tokens_mean": float(tokens.mean()),
        f"{prefix}/truncated_share": float(truncated.mean()),
        f"{prefix}/unverifiable_share": float(1.0 - verifiable.mean()),
    }
