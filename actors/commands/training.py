"""`maspo-dist train`: prepares a run, starts its processes, drives the loop, ends everything."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

from actors.commands.backends import require_backends
from actors.controller.controller import Controller
from actors.controller.evaluator import Evaluator
from actors.controller.group_stream import GroupStream
from actors.controller.publisher import Publisher
from actors.controller.recording import StepRecorder
from actors.controller.run_services import beside, follow_drains, follow_requests, watch, write_live
from actors.controller.session import Session
from actors.interfaces import RolloutPool
from actors.processes import REAL_CLASSES, ActorClasses, RunCluster
from actors.ray.connection import cluster_address, connect, disconnect, own_store
from actors.ray.control import open_control
from actors.ray.errors import reason_of
from actors.ray.model_on_nodes import for_actors
from actors.ray.nodes import leaving_nodes
from actors.warm import Shelf
from actors.weights.probes import longest_probe, probe_sequences, probe_tokens
from maspo_dist.config import TrainConfig, dump_config, resume_changes
from maspo_dist.data.cursor import REFERENCES_CHANGED, PromptCursor
from maspo_dist.errors import ConfigError
from maspo_dist.flow.ledger import Ledger
from maspo_dist.planning.check import data_notes, learner_notes
from maspo_dist.planning.object_store import publish_bytes
from maspo_dist.planning.preflight import Prepared, prepare
from maspo_dist.runs.checkpoint import (
    CONFIG_FILE,
    CheckpointStore,
    CheckpointWriter,
    RunState,
    read_state,
    require_good,
)
from maspo_dist.runs.exporter import Exporter, open_exporter
from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.interrupt import Interruption, until_signal
from maspo_dist.runs.logs import LogStream, configure_logging
from maspo_dist.runs.metrics import open_metrics
from maspo_dist.runs.regime import regime_line
from maspo_dist.runs.rows import Event
from maspo_dist.runs.step_record import StepRecords
from maspo_dist.types import FinishedGroup, RolloutGroup
from maspo_dist.views.console import RunConsole, open_console
from maspo_dist.views.report import write_report

logger = logging.getLogger(__name__)

#: Longest probe that is made of prompts.
_PROBE_TOKENS = 64


def train(config: TrainConfig, *, allow_config_change: bool = False, shelf: Shelf | None = None) -> None:
    """Runs `config` to its end. Every process of the run is ended, also on an error and on a signal.

    With a `shelf`, a good run leaves processes on it and stays in the cluster, for the next run of the caller.

    Exits with 130 after Ctrl-C and with 143 after SIGTERM. Raises ConfigError if the run resumes from a checkpoint and
    `config` would train something else than the checkpoint's configuration, unless `allow_config_change`.
    """
    require_backends(config)
    prepared = prepare(config)
    path = config.run.dir / config.run.name
    fresh = config.checkpoint.resume == "never"
    with RunFolder.create(path) if fresh else RunFolder.resume(path) as folder:
        configure_logging("controller", folder.logs_path, sys.stderr)
        resume = _resume_point(config, folder)
        if resume is not None:
            _compare_config(config, resume, folder, allow_config_change)
        sets = {"train": prepared.train, **prepared.evaluation}
        notes = learner_notes(config, prepared.model.size)
        for note in (*notes, *(n for name in sets for n in data_notes(config, name, sets[name]))):
            logger.warning("%s", note)
        folder.write_config(dump_config(config))
        if resume is not None and not folder.owns(resume):
            start = str(resume.resolve())
            folder.write_event(Event(kind="started_from", message=f"from {start}", details=(("checkpoint", start),)))
        resumed_step = read_state(resume).step if resume else -1
        folder.rewind(resumed_step)
        for name in CheckpointStore(folder.checkpoints_path).rewind(resumed_step):
            logger.warning("checkpoint set aside: %s is newer than the step that this run resumes from", name)
        console = open_console(config.run.name, config.run.max_steps, folder.read_progress())
        # Ray prints its errors whatever its settings say. Only the console may write to the screen.
        with open_exporter(folder, config) as exporter, console, redirect_stdout(LogStream()):
            if exporter is not None:
                console.served_at(str(exporter.url))
            run = Run(config, prepared, folder, console, resume, exporter=exporter, shelf=shelf)
            interrupted = asyncio.run(until_signal(run.drive, run.request_stop))
    if interrupted is not None:
        raise SystemExit(128 + interrupted)


def _resume_point(config: TrainConfig, folder: RunFolder) -> Path | None:
    """The checkpoint that `checkpoint.resume` selects, or None.

    A run that started from a checkpoint of another run, and has saved none, starts from there again. Raises ConfigError
    if that or the named checkpoint is damaged, or if the named is of another run and the folder holds a run already.
    """
    wanted = config.checkpoint.resume
    if wanted == "never":
        return None
    if wanted != "auto":
        require_good(Path(wanted))
        folder.require_no_other_run(Path(wanted))
        return Path(wanted)
    newest, passed_over = CheckpointStore(folder.checkpoints_path).newest()
    for reason in passed_over:
        folder.write_event(Event(kind="checkpoint_damaged", message=reason))
        logger.warning("checkpoint passed over: %s", reason)
    if newest is None and (start := folder.started_from()) is not None:
        require_good(start)
        return start
    return newest


def _compare_config(config: TrainConfig, checkpoint: Path, folder: RunFolder, allow_config_change: bool) -> None:
    """Logs which keys differ from the checkpoint's configuration. Raises ConfigError as `train` does."""
    refused, harmless = resume_changes((checkpoint / CONFIG_FILE).read_text(encoding="utf-8"), config)
    if not refused and not harmless:
        return
    changes = "; ".join(map(str, [*refused, *harmless]))
    message = f"the configuration differs from that of {checkpoint.name}: {changes}"
    folder.write_event(Event(kind="config_changed", message=message))
    logger.warning("%s", message)
    if refused and not allow_config_change:
        raise ConfigError(
            f"a run resumed from {checkpoint} would train something else: {'; '.join(map(str, refused))}: "
            "set it back, or pass --allow-config-change"
        )


@dataclass
class Run:
    """The processes and the loop of one run. `resume` is the checkpoint to resume from, if any."""

    config: TrainConfig
    prepared: Prepared
    folder: RunFolder
    console: RunConsole
    resume: Path | None
    classes: ActorClasses = REAL_CLASSES
    exporter: Exporter | None = None
    shelf: Shelf | None = None
    controller: Controller | None = None

    def request_stop(self) -> float:
        """Asks the loop to save its state and end; returns the seconds it may take, 0 if it has not started."""
        if self.controller is None:
            return 0.0
        self.controller.request_stop()
        return self.config.checkpoint.stop_grace_s

    async def drive(self, interruption: Interruption) -> None:
        """Starts the processes, trains and writes the report. In the end, and on an error, it ends every process and
        leaves the cluster, but for what it leaves on the shelf.
        """
        config = self.config
        self.console.waiting_for("Ray")
        try:
            store, slow = own_store(publish_bytes(config, self.prepared.model.size))
            if slow is not None:
                self._event(Event(kind="object_store_small", message=slow))
            # Ray's own processes end with the thread that starts them, and this event loop's threads end with the run.
            device = (
                await asyncio.to_thread(connect, config.model.device, store)
                if self.shelf is None
                else connect(config.model.device, store)
            )
            # Ray installs signal handlers of its own when it starts.
            interruption.watch_signals()
            control = open_control(config.run.name)
            self.folder.write_address(cluster_address())
            cluster = RunCluster(
                # The run folder keeps the configuration as it was given.
                for_actors(config),
                self.prepared.model.size,
                device,
                self.folder.logs_path,
                waiting_for=self.console.waiting_for,
                on_event=self._event,
                classes=self.classes,
                shelf=self.shelf,
            )
            try:
                await cluster.start()
                controller = self.controller = self._make_controller(cluster)
                finished = await beside(
                    controller.run(self.resume),
                    watch(config.cluster, lambda: controller.progress, cluster.dump_stacks, self._event),
                    write_live(self.folder.live_path, lambda: controller.standing, cluster.rollout, self.exporter),
                    follow_requests(control, cluster.rollout),
                    follow_drains(leaving_nodes, cluster.own_nodes, cluster.rollout, interruption, self._event),
                    cluster.watch_verifier(),
                    cluster.learners.watch(),
                )
                if finished:
                    await cluster.leave()
            finally:
                await asyncio.shield(cluster.stop())
        except Exception as error:
            self._failed(error)
            raise
        finally:
            if self.shelf is None:
                disconnect()
        if not finished:
            self._event(Event(kind="run_stopped", message="as asked; resume with checkpoint.resume=auto"))
            return
        self._event(Event(kind="run_finished", message=f"{config.run.max_steps} steps done"))
        write_report([self.folder.path], self.folder.report_path)
        regime = regime_line(self.folder.read_metrics(), config.algorithm.loss.kind)
        self.console.finished(self.folder.report_path, regime)

    def _make_controller(self, cluster: RunCluster) -> Controller:
        config, prepared, folder = self.config, self.prepared, self.folder
        held_out = {name: prompts.prompts for name, prompts in prepared.evaluation.items()}
        checkpoints = CheckpointStore(folder.checkpoints_path)
        return Controller(
            config=config,
            pool=cluster.rollout,
            learners=cluster.learners,
            recorder=self._recorder(cluster),
            sessions=lambda state, finished: self._session(cluster.rollout, state, finished),
            evaluator=Evaluator(config, cluster.rollout, held_out, self._event),
            checkpoints=checkpoints,
            writer=CheckpointWriter(checkpoints, config.checkpoint, dump_config(config), self._checkpoint_failed),
            publisher=self._publisher(cluster),
            hidden=prepared.model.size.hidden,
            decode=prepared.model.tokenizer.decode,
            record=folder,
            console=self.console,
            clock=time.time,
        )

    def _publisher(self, cluster: RunCluster) -> Publisher:
        config = self.config
        tokens = probe_tokens(config.sync.probe_tokens, cluster.device, config.model.dtype)
        length = min(_PROBE_TOKENS, longest_probe(config))
        prompts = [prompt.token_ids.tolist() for prompt in self.prepared.train.prompts[:256]]
        return Publisher(
            config=config,
            pool=cluster.rollout,
            learners=cluster.learners,
            prompts=probe_sequences(prompts, -(-tokens // length), length),
            tokens=tokens,
            turns=cluster.turns,
        )

    def _recorder(self, cluster: RunCluster) -> StepRecorder | None:
        kept = self.config.logging.recorded_steps
        if kept == 0:
            return None
        records = StepRecords(self.folder.steps_path, kept)
        return StepRecorder(cluster.learners, records, dump_config(self.config), cluster.rollout.fetch, self._event)

    def _session(
        self, pool: RolloutPool, state: RunState | None, finished: Sequence[FinishedGroup[RolloutGroup]]
    ) -> Session:
        config = self.config
        if state is not None:
            self._event(Event(kind="resumed", message=f"after step {state.step}"))
        ledger = Ledger()
        cursor = PromptCursor(self.prepared.train.prompts, config.run.seed, state.stream.cursor if state else None)
        if cursor.references_changed:
            self._event(Event(kind="references_changed", message=REFERENCES_CHANGED))
        stream = GroupStream(
            config,
            pool,
            cursor,
            ledger,
            batches=config.run.max_steps - (state.step if state else 0),
            on_progress=self.console.phase,
            on_event=self._event,
            restored=state.stream if state else None,
            finished=finished,
        )
        after_step = state.step if state else 0
        more = [self.exporter] if self.exporter else []
        metrics = open_metrics(self.folder, config.logging, config.model_dump(mode="json"), after_step, more)
        return Session(stream=stream, ledger=ledger, metrics=metrics)

    def _failed(self, error: Exception) -> None:
        # A full disk may be the reason.
        with suppress(OSError):
            self._event(Event(kind="run_failed", message=reason_of(error)))

    def _checkpoint_failed(self, step: int, reason: str) -> None:
        self._event(Event(kind="checkpoint_failed", message=f"step {step}: {reason}", details=(("step", step),)))

    def _event(self, event: Event) -> None:
        self.folder.write_event(event)
        self.console.event(event)
