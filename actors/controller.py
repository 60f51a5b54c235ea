"""The loop.

    prompts ──admit──► rollout workers ──score──► verifier pool
                             │  ▲                      │
             RolloutGroup    │  │                      │ verdicts
             (by reference)  │  └── WeightSnapshot ◄─┐ ▼
                             ▼        (publish)      │ GroupReport ──► controller: TrainingBatch
                       object store ──────────► learner ranks ◄──────────┘  (who trains what)

One step: take the groups that the age bound says → lay them out → update → publish, prove, stamp →
metrics → evaluation and checkpoint when due. Generation of later groups goes on beside all of it as far
as `algorithm.max_policy_age` allows; with 0 it waits for the publish. Responses travel from worker to
learner by reference: this process sees their lengths, versions and verdicts only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from actors.boundaries import LearnerGroup, ProbeSequence, PublishReport, RolloutPool
from actors.evaluator import Evaluator
from actors.group_stream import CollectedGroup, GroupStream
from maspo_dist.checkpoint import CheckpointStore, RunState
from maspo_dist.config import TrainConfig
from maspo_dist.console import RunConsole
from maspo_dist.data.batching import lay_out_batch
from maspo_dist.flow.batch_metrics import batch_metrics
from maspo_dist.flow.ledger import Ledger
from maspo_dist.metrics import MetricFanout
from maspo_dist.run_folder import Event, RunFolder, SampleRow

logger = logging.getLogger(__name__)

#: The learners' part of a checkpoint.
LEARNER_FOLDER = "learner"


class Decoder(Protocol):
    """Token ids to text, for samples.jsonl."""

    def decode(self, token_ids: Sequence[int]) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """Where a run stands: batches done, and the learner's policy version."""

    step: int = 0
    policy_version: int = 0


class Controller:
    """Drives one run. Owns no process: whoever made the pools ends them."""

    def __init__(
        self,
        config: TrainConfig,
        *,
        pool: RolloutPool,
        learners: LearnerGroup,
        stream: GroupStream,
        ledger: Ledger,
        evaluator: Evaluator,
        checkpoints: CheckpointStore,
        probes: Sequence[ProbeSequence],
        decoder: Decoder,
        folder: RunFolder,
        metrics: MetricFanout,
        console: RunConsole,
    ) -> None:
        self._config = config
        self._pool = pool
        self._learners = learners
        self._stream = stream
        self._ledger = ledger
        self._evaluator = evaluator
        self._checkpoints = checkpoints
        self._probes = probes
        self._decoder = decoder
        self._folder = folder
        self._metrics = metrics
        self._console = console
        self._version = 0

    async def run(self, start: Progressed) -> None:
        """Trains from `start` to `run.max_steps`."""
        self._version = start.policy_version
        self._console.phase("publish")
        await self._publish()
        if start.step == 0 and self._config.evaluation.every is not None:
            self._console.phase("evaluate")
            scores = await self._evaluator.evaluate(self._version)
            self._metrics.write(0, scores)
            self._console.step(0, scores)
        try:
            for step in range(start.step + 1, self._config.run.max_steps + 1):
                await self._step(step)
        finally:
            await self._stream.stop()
            self._ledger.close(self._config.run.max_steps)
            self._folder.write_ledger(self._ledger.take_rows())

    async def _step(self, step: int) -> None:
        started_s = time.time()
        consumed_version = self._version
        groups = await self._stream.take(self._version)
        taken_s = time.time()
        metrics = batch_metrics([group.scored for group in groups], consumed_version)
        metrics |= _generation_times(groups, started_s, taken_s)

        self._console.phase("update")
        metrics |= await self._update(step, groups)
        updated_s = time.time()
        self._console.phase("publish")
        if self._version > consumed_version:
            published = await self._publish()
            metrics |= _publish_metrics(published)
        published_s = time.time()
        metrics |= {
            "time/update_s": updated_s - taken_s,
            "time/publish_s": published_s - updated_s,
            "policy/version": float(self._version),
        }
        if self._checkpoint_is_due(step):
            self._console.phase("checkpoint")
            metrics["time/checkpoint_s"] = await self._save(step)
        evaluated_from_s = time.time()
        if self._evaluation_is_due(step):
            self._console.phase("evaluate")
            metrics |= await self._evaluator.evaluate(self._version)
            metrics["time/evaluate_s"] = time.time() - evaluated_from_s
        metrics["time/step_s"] = time.time() - started_s
        await self._write_samples(step, groups)
        self._folder.write_ledger(self._ledger.take_rows())
        self._metrics.write(step, metrics)
        self._console.step(step, metrics)

    async def _update(self, step: int, groups: Sequence[CollectedGroup]) -> dict[str, float]:
        """One batch on the learners. A batch with nothing to train leaves the policy as it is."""
        training = [group for group in groups if group.dropped is None]
        for group in groups:
            if group.dropped is None:
                self._ledger.train(group.group_id, step)
            else:
                self._ledger.drop(group.group_id, step, group.dropped)
        metrics = {
            "rollout/groups_trained": float(len(training)),
            "rollout/groups_dropped": float(len(groups) - len(training)),
        }
        if not training:
            logger.warning("step %d: no group can teach anything, the policy stays as it is", step)
            return metrics
        batch = lay_out_batch(
            step,
            [group.scored for group in training],
            mini_batches=self._config.algorithm.mini_batches,
            ranks=self._config.learner.ranks,
            micro_batch_tokens=self._config.learner.micro_batch_tokens,
        )
        report = await self._learners.update(batch, {group.group_id: group.body for group in training})
        self._version = report.policy_version
        return metrics | report.metrics

    async def _publish(self) -> PublishReport:
        """The learner's weights to every engine, proven; see `rollout_worker`."""
        expected = await self._learners.probe(self._probes)
        snapshot = await self._learners.export_weights(self._version)
        return await self._pool.publish(snapshot, self._probes, expected)

    async def _save(self, step: int) -> float:
        """A checkpoint of the run after `step`; returns its seconds. A full disk costs the checkpoint, not the run."""
        started_s = time.time()
        next_group, cursor = self._stream.resume_point
        state = RunState(step=step, policy_version=self._version, next_group=next_group, cursor=cursor)
        try:
            part = await asyncio.to_thread(self._checkpoints.begin, step)
            await self._learners.save((part / LEARNER_FOLDER).resolve())
            await asyncio.to_thread(self._checkpoints.commit, part, state, self._config.checkpoint.keep)
        except OSError as error:
            self._folder.write_event(Event(kind="checkpoint_failed", message=f"step {step}: {error}"))
            logger.warning("step %d: no checkpoint was written: %s", step, error)
        return time.time() - started_s

    def _checkpoint_is_due(self, step: int) -> bool:
        every = self._config.checkpoint.every
        return every is not None and (step % every == 0 or step == self._config.run.max_steps)

    def _evaluation_is_due(self, step: int) -> bool:
        every = self._config.evaluation.every
        return every is not None and (step % every == 0 or step == self._config.run.max_steps)

    async def _write_samples(self, step: int, groups: Sequence[CollectedGroup]) -> None:
        limit = self._config.logging.sample_groups
        rows: list[SampleRow] = []
        for collected in groups if limit is None else groups[:limit]:
            body = await self._pool.fetch(collected.body)
            scored = collected.scored
            rows += [
                SampleRow(
                    step=step,
                    group_id=collected.group_id,
                    prompt_id=body.prompt.prompt_id,
                    source=body.prompt.source,
                    prompt=self._decoder.decode(body.prompt.token_ids.tolist()),
                    response=rollout.text,
                    reference=body.prompt.reference,
                    reward=float(reward),
                    status=verdict.status,
                    extracted=verdict.extracted,
                    seconds=verdict.seconds,
                    reason=verdict.reason,
                    finish_reason=rollout.finish_reason,
                )
                for rollout, verdict, reward in zip(body.rollouts, scored.report.verdicts, scored.rewards, strict=True)
            ]
        self._folder.write_samples(rows)


def probe_sequences(prompts: Sequence[Sequence[int]], count: int, tokens: int) -> list[ProbeSequence]:
    """`count` sequences of `tokens` ids, made of training prompts laid end to end."""
    ids = [token for prompt in prompts for token in prompt]
    return [
        ProbeSequence(token_ids=np.asarray(ids[start : start + tokens], np.int32))
        for start in range(0, min(len(ids) - 1, count * tokens), tokens)
    ]


def _generation_times(groups: Sequence[CollectedGroup], started_s: float, taken_s: float) -> dict[str, float]:
    """generate_s: until the last response of the batch ended, if that was after the step began; verify_s: from
    there to the last verdict. Tokens per second count the batch's tokens over the wait for them.
    """
    generated_s = max(group.scored.report.generated_at_s for group in groups)
    tokens = sum(int(group.scored.report.response_tokens.sum()) for group in groups)
    generate_s = min(max(0.0, generated_s - started_s), taken_s - started_s)
    waited_s = taken_s - started_s
    return {
        "time/generate_s": generate_s,
        "time/verify_s": waited_s - generate_s,
        "rollout/tokens": float(tokens),
        "rollout/tokens_per_s": tokens / max(waited_s, 1e-3),
    }


def _publish_metrics(published: PublishReport) -> dict[str, float]:
    return {
        "sync/max_logprob_gap": published.max_logprob_gap,
        "sync/transfer_s": published.transfer_s,
        "sync/pause_s": published.pause_s,
    }
