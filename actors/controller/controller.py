"""The loop.

    prompts ──admit──► rollout workers ──score──► verifier pool
                             │  ▲                      │
             RolloutGroup    │  │                      │ verdicts
             (by reference)  │  └── WeightSnapshot ◄─┐ ▼
                             ▼        (publish)      │ GroupReport ──► controller: TrainingBatch
                       object store ──────────► learner ranks ◄──────────┘  (who trains what)

One step: take the groups that the age bound allows → lay them out → update → publish and prove → evaluation starts when
due → metrics → checkpoint when due. Meanwhile later groups are sampled, as far as `algorithm.max_policy_age` allows. An
evaluation belongs to one policy version, so the next publish waits for its end. Where engines and learners take turns
on the same devices, the next update waits for it too. Responses travel from worker to learner by reference: this
process sees only their lengths, versions and verdicts.

The pool replaces lost rollout workers. Groups in the memory of a lost node are sampled again. A lost learner ends the
session: the learner group restarts, and a new session continues from the newest good checkpoint, as a resumed run does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.controller.evaluator import Evaluator
from actors.controller.group_stream import Batch
from actors.controller.publisher import Publisher
from actors.controller.recording import StepRecorder
from actors.controller.session import Session
from actors.controller.step_rows import batch_metrics, generation_times, sample_rows
from actors.interfaces import LearnerGroup, RolloutPool
from actors.ray.waits import unless_set, within
from maspo_dist.config import TrainConfig
from maspo_dist.data.batching import lay_out_batch
from maspo_dist.errors import BodyLostError, DeadlineError, LearnerLostError
from maspo_dist.flow.failures import RestartBudget
from maspo_dist.flow.policy_age import require_young
from maspo_dist.runs.checkpoint import (
    LEARNER_FOLDER,
    CheckpointStore,
    CheckpointWriter,
    RunState,
    read_finished,
    read_state,
)
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.live import Standing
from maspo_dist.runs.rows import Event, EventKind
from maspo_dist.types import FinishedGroup, RolloutGroup
from maspo_dist.views.console import RunConsole

logger = logging.getLogger(__name__)

#: Seconds that a run that is asked to stop waits for an evaluation.
_LAST_SCORES_S = 5.0
#: Phases of the loop.
_SAVE, _LOAD = "checkpoint", "load checkpoint"


@dataclass(kw_only=True, eq=False)
class Controller:
    """Drives one run. Owns no process; the run that made the pools ends them.

    recorder   records the updates; None records none
    publisher  publishes the weights
    sessions   makes a session from the state of a checkpoint (None: the start) and its finished groups
    hidden     hidden size of the model
    decode     turns token ids into text
    clock      the wall clock that reports carry, time.time in a real run
    """

    config: TrainConfig
    pool: RolloutPool
    learners: LearnerGroup
    recorder: StepRecorder | None = None
    sessions: Callable[[RunState | None, Sequence[FinishedGroup[RolloutGroup]]], Session]
    evaluator: Evaluator
    checkpoints: CheckpointStore
    writer: CheckpointWriter
    publisher: Publisher
    hidden: int
    decode: Callable[[Sequence[int]], str]
    record: RunFolder
    console: RunConsole
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        cluster = self.config.cluster
        self._stop_requested = asyncio.Event()
        self._session: Session | None = None
        self._version = 0
        self._step = 0
        self._saved_step: int | None = None
        self._achieved = 0
        self._phase = "starting"
        self._late: dict[str, float] = {}
        self._taken_s: float | None = None
        self._budget = RestartBudget(cluster.max_learner_restarts, *cluster.restart_pauses_s)

    async def run(self, resume: Path | None) -> bool:
        """Trains to `run.max_steps`, from the checkpoint at `resume` or the start.

        False when `request_stop` ended it early, with a checkpoint if checkpoints are kept.
        """
        first, loop = resume, asyncio.get_running_loop()
        lost_s: float | None = None
        while True:
            try:
                await self._open_session(resume)
                if lost_s is not None:
                    seconds, lost_s = loop.time() - lost_s, None
                    message = f"the learner group trains again after {seconds:.1f} s"
                    self._event("learner_recovered", message, seconds=seconds)
                return await self._steps()
            except LearnerLostError as error:
                lost, lost_s = error, loop.time() if lost_s is None else lost_s
            finally:
                await self._close_session()
            resume = await self._restart_learners(lost, first)

    def request_stop(self) -> None:
        """Ends the run at the next consistent state: soon while it waits for groups or scores, else after the step."""
        self._stop_requested.set()

    @property
    def progress(self) -> object:
        """Changes whenever the run makes progress. Tokens, micro-batches and starts of workers count; a worker's wait
        for a node does not.

        A checkpoint reports nothing while it is written or read, so the time that passes counts as progress;
        `save_timeout_s` bounds that time.
        """
        checkpoint_s = asyncio.get_running_loop().time() if self._phase in (_SAVE, _LOAD) else 0.0
        workers = tuple((w.name, w.state, w.version) for w in self.pool.status() if w.state != "waiting")
        session = self._session
        groups = session.ledger.achieved if session else 0
        generated = self.evaluator.achieved, groups, self.pool.last_token_s()
        return self._achieved, generated, self.learners.achieved, workers, checkpoint_s

    @property
    def standing(self) -> Standing:
        """The state of the run now, for `maspo-dist status`."""
        session = self._session
        return Standing(
            step=self._step,
            phase=self._phase,
            policy_version=self._version,
            groups_in_flight=session.stream.groups.in_flight if session else 0,
            groups_finished=session.stream.groups.finished if session else 0,
            outcomes=tuple(sorted(session.ledger.counts.items())) if session else (),
            saved_step=self.writer.saved_step,
            is_evaluating=self.evaluator.version is not None,
        )

    # Sessions.

    async def _open_session(self, resume: Path | None) -> None:
        state = None if resume is None else read_state(resume)
        finished: Sequence[FinishedGroup[RolloutGroup]] = ()
        if self.publisher.turns is not None:
            await self.publisher.turns.to_learners()
        if resume is not None:
            self._enter(_LOAD)
            await self.learners.load((resume / LEARNER_FOLDER).resolve())
            finished = await asyncio.to_thread(read_finished, resume)
        self._saved_step = state.step if state else None
        self.writer.saved_step = self._saved_step
        self._step = self._saved_step or 0
        self._version = state.policy_version if state else 0
        session = self._session = self.sessions(state, finished)
        self.publisher.start_gap = state.start_gap if state else None
        self._enter("publish")
        await self.publisher.publish(self._version)
        session.stream.resend(self._version)
        if self._is_evaluated(self._step) and not self.record.is_scored(self._step):
            self.evaluator.start(self._version)
            if self._step == 0:
                await self._finish_evaluation()

    async def _close_session(self) -> None:
        """Cancels what is in flight, and enters open groups as pending; the next session removes these rows."""
        session, self._session = self._session, None
        if session is None:
            return
        self._taken_s = None
        await self.evaluator.cancel()
        await session.stream.stop()
        session.ledger.close(self._step)
        self.record.write_ledger(session.ledger.take_rows())
        session.metrics.close()

    async def _restart_learners(self, lost: LearnerLostError, first: Path | None) -> Path | None:
        """Restarts the learner group; returns the checkpoint to continue from. Raises `lost` after too many losses."""
        pause_s = self._pause_after(lost)
        await self._saved()
        newest, passed_over = await asyncio.to_thread(self.checkpoints.newest)
        resume = newest or first
        step = read_state(resume).step if resume else 0
        again = self._step - step
        message = f"{lost}; restarts from {'step ' + str(step) if step else 'the start'}, {again} steps again"
        self._event("learner_lost", message, step=self._step, steps_lost=again)
        for reason in passed_over:
            self._event("checkpoint_damaged", reason)
        await asyncio.sleep(pause_s)
        self._enter("restart learners")
        if self.publisher.turns is not None:
            await self.publisher.turns.to_new_learners()
        while True:
            try:
                await self.learners.restart()
                break
            except LearnerLostError as error:
                await asyncio.sleep(self._pause_after(error))
        await asyncio.to_thread(self.record.rewind, step)
        await asyncio.to_thread(self.checkpoints.rewind, step)
        return resume

    def _pause_after(self, lost: LearnerLostError) -> float:
        """Seconds until the restart. Raises `lost` when no restart is left."""
        pause_s = self._budget.lost(asyncio.get_running_loop().time(), self._step + 1)
        if pause_s is None:
            raise lost
        return pause_s

    # Steps.

    async def _steps(self) -> bool:
        """The remaining steps of a session, then a last checkpoint. False if the run is asked to stop."""
        is_done = await self._train()
        is_done = await self._finish_evaluation() and is_done
        if (self._step > 0 or is_done) and self.config.checkpoint.every is not None and self._saved_step != self._step:
            await self._save()
        await self._saved()
        return is_done

    async def _train(self) -> bool:
        every = self.config.checkpoint.every
        while self._step < self.config.run.max_steps:
            if self._stop_requested.is_set():
                return False
            self._enter("generate")
            started_s = self.clock()
            batch = await unless_set(self._stop_requested, self._current.stream.take(self._version), 0.0)
            if batch is None:
                return False
            is_done = await self._one_step(batch, self._step + 1, started_s)
            if is_done and every is not None and self._step % every == 0:
                if not await self._finish_evaluation():
                    return False
                await self._save_in_time()
        # A run that was asked to stop in its last step has not asked for the last scores.
        has_scores = self.evaluator.version is not None or self.record.is_scored(self._step)
        return has_scores or not self._is_evaluated(self._step)

    async def _one_step(self, batch: Batch, step: int, started_s: float) -> bool:
        """False if groups of `batch` were lost with a node: its groups are open again, and the policy is unchanged."""
        session = self._current
        consumed_version = self._version
        taken_s = self.clock()
        metrics = batch_metrics(batch, consumed_version)
        metrics |= generation_times(batch, started_s, taken_s, self._taken_s)
        self._taken_s = taken_s
        evaluation_wait_s = 0.0
        if self.publisher.turns is not None and batch.training:
            evaluation_wait_s += await self._settle_evaluation(step)
            await self.publisher.turns.to_learners()
        self._enter("update")
        try:
            metrics |= await self._update(step, batch)
        except BodyLostError as error:
            self._event("batch_taken_back", f"step {step}: {error}", step=step)
            if self.publisher.turns is not None:
                await self.publisher.publish(self._version)
            await session.stream.take_back(step, error)
            return False
        update_s = self.clock() - taken_s - evaluation_wait_s
        evaluation_wait_s += await self._settle_evaluation(step)
        publish_from_s = self.clock()
        # A run that is asked to stop may have lost its engines for good. The next session publishes and evaluates.
        is_cut_short = self._stop_requested.is_set() and not any(w.state == "serving" for w in self.pool.status())
        if self._version > consumed_version and not is_cut_short:
            self._enter("publish")
            published = await self.publisher.publish(self._version, [group.body for group in batch.training])
            metrics |= published.metrics
        publish_s = self.clock() - publish_from_s
        session.stream.pump(self._version)
        metrics |= {"time/update_s": update_s, "time/publish_s": publish_s, "policy/version": float(self._version)}
        metrics["time/evaluation_wait_s"] = evaluation_wait_s
        if self._is_evaluated(step) and not is_cut_short:
            self.evaluator.start(self._version)
        metrics["time/step_s"] = self.clock() - started_s
        metrics |= self._late
        self._late = {}
        kept = batch.groups[: self.config.logging.sample_groups]
        self.record.write_samples(await sample_rows(step, kept, self.pool.fetch, self.decode))
        self.record.write_ledger(session.ledger.take_rows())
        self._step = step
        self.console.step(step, metrics)
        await self._write_metrics(metrics)
        return True

    async def _settle_evaluation(self, step: int) -> float:
        """Waits for the scores of the step before `step`, or notes that they do not come. Returns the seconds."""
        started_s = self.clock()
        if not await self._finish_evaluation():
            self._event("evaluation_given_up", f"of step {step - 1}: the run is asked to stop", step=step - 1)
        return self.clock() - started_s

    async def _finish_evaluation(self) -> bool:
        """Waits for the scores of the last step, if it is evaluated, and writes the scores.

        False if the run is asked to stop and the scores take too long: the evaluation is cancelled then.
        """
        if self.evaluator.version is None:
            return True
        self._enter("evaluate")
        scores = await unless_set(self._stop_requested, self.evaluator.result(), _LAST_SCORES_S)
        if scores is None:
            return False
        self.console.scores(self._step, scores)
        await self._write_metrics(scores)
        return True

    def _is_evaluated(self, step: int) -> bool:
        return self.config.evaluation.is_due(step, self.config.run.max_steps)

    async def _write_metrics(self, metrics: Mapping[str, float]) -> None:
        self._current.metrics.write(self._step, metrics)
        await self.writer.score(self._step, metrics)

    async def _update(self, step: int, batch: Batch) -> dict[str, float]:
        """One batch on the learners. A batch without training groups leaves the policy unchanged."""
        metrics: dict[str, float] = {}
        if training := batch.training:
            for group in training:
                require_young(group, self._version, self.config.algorithm.max_policy_age)
            layout = lay_out_batch(
                step,
                [group.scored for group in training],
                mini_batches=self.config.algorithm.mini_batches,
                ranks=self.config.learner.data_parallel,
                micro_batch_tokens=self.config.learner.micro_batch_tokens,
                hidden=self.hidden,
            )
            update = self.recorder.update if self.recorder else self.learners.update
            report = await update(layout, {group.group_id: group.body for group in training})
            self._version = report.policy_version
            metrics |= report.metrics
        else:
            logger.warning("step %d: no group trains, the policy stays unchanged", step)
        batch.enter(self._current.ledger, step)
        return metrics

    async def _save_in_time(self) -> None:
        """Saves, unless the last checkpoint is still being written past its deadline: then training goes on."""
        self._enter(_SAVE)
        left_s = self.writer.begun_s + self.config.cluster.save_timeout_s - asyncio.get_running_loop().time()
        try:
            await within(max(left_s, 0.0), "checkpoint: the last one's completion", self.writer.drain())
        except DeadlineError:
            self.writer.skip(self._step, "not saved, since the checkpoint before it is still being written")
        else:
            await self._save()

    async def _save(self) -> None:
        """Saves the state between two steps; the checkpoint is completed while training continues."""
        await self._saved()
        if (reason := self.record.sync()) is not None:
            self.writer.skip(self._step, reason)
            return
        stream_state, finished = await self._current.stream.snapshot()
        start_gap = self.publisher.start_gap
        state = RunState(step=self._step, policy_version=self._version, stream=stream_state, start_gap=start_gap)
        self._late["time/checkpoint_s"] = await self.writer.save(state, finished, self.learners.save)
        self._saved_step = self._step

    async def _saved(self) -> None:
        """Waits for the last checkpoint to be complete, past its deadline too while the disk makes progress."""
        self._enter(_SAVE)
        timeout_s, progress_s = self.config.cluster.save_timeout_s, lambda: self.writer.last_progress_s
        await within(timeout_s, "checkpoint: its completion", self.writer.drain(), progress_s)

    @property
    def _current(self) -> Session:
        assert self._session is not None
        return self._session

    def _enter(self, phase: str) -> None:
        self._achieved += 1
        self._phase = phase
        self.console.phase(phase)

    def _event(self, kind: EventKind, message: str, **details: float | int) -> None:
        event = Event(kind=kind, message=message, details=tuple(details.items()))
        self.record.write_event(event)
        self.console.event(event)
