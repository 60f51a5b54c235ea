"""One run, from a configuration to an exit: prepares, starts the processes, drives the loop, ends everything."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from actors.cluster import RunningCluster, connect, disconnect, start_cluster
from actors.controller import Controller, Progressed, probe_sequences
from actors.evaluator import Evaluator
from actors.group_stream import GroupStream
from maspo_dist.checkpoint import LEARNER_FOLDER, CheckpointStore, RunState, damage_of, read_state
from maspo_dist.config import TrainConfig, dump_config
from maspo_dist.console import RunConsole, open_console
from maspo_dist.data.cursor import PromptCursor
from maspo_dist.errors import ConfigError, MaspoError
from maspo_dist.flow.ledger import Ledger
from maspo_dist.logs import LogContext, configure_logging
from maspo_dist.metrics import open_metrics
from maspo_dist.placement import plan_bundles
from maspo_dist.preflight import Prepared, prepare
from maspo_dist.report import write_report
from maspo_dist.run_folder import Event, RunFolder

logger = logging.getLogger(__name__)

_PROBE_TOKENS = 64


def train(config: TrainConfig) -> None:
    """Runs to the end. Leaves no process behind, whatever happens; exits 130 or 143 when interrupted."""
    prepared = prepare(config)
    path = config.run.dir / config.run.name
    fresh = config.checkpoint.resume == "never"
    folder = (RunFolder.create if fresh else RunFolder.resume)(path, dump_config(config))
    with folder:
        context = LogContext("controller")
        configure_logging(context, folder.logs_path, sys.stderr)
        resumed = _resume_point(config, folder)
        folder.rewind(resumed[1].step if resumed else -1)
        with open_console(config.run.name, config.run.max_steps, folder.read_metrics()) as console:
            interrupted = asyncio.run(_until_signal(_Run(config, prepared, folder, console, resumed)))
    if interrupted is not None:
        raise SystemExit(128 + interrupted)


def _resume_point(config: TrainConfig, folder: RunFolder) -> tuple[Path, RunState] | None:
    """The checkpoint to go on from, as `checkpoint.resume` says; None starts anew.

    Raises ConfigError where a checkpoint that was named cannot be used.
    """
    wanted = config.checkpoint.resume
    if wanted == "never":
        return None
    if wanted != "auto":
        damage = damage_of(Path(wanted))
        if damage is not None:
            raise ConfigError(f"checkpoint.resume {wanted} is not a good checkpoint: {damage}")
        return Path(wanted), read_state(Path(wanted))
    newest, passed_over = CheckpointStore(folder.checkpoints_path).newest()
    for reason in passed_over:
        folder.write_event(Event(kind="checkpoint_damaged", message=reason))
        logger.warning("checkpoint passed over: %s", reason)
    return (newest, read_state(newest)) if newest is not None else None


class _Run:
    """The processes and the loop of one run."""

    def __init__(
        self,
        config: TrainConfig,
        prepared: Prepared,
        folder: RunFolder,
        console: RunConsole,
        resumed: tuple[Path, RunState] | None,
    ) -> None:
        self._config = config
        self._prepared = prepared
        self._folder = folder
        self._console = console
        self._resumed = resumed

    async def drive(self, watch_signals: Callable[[], None]) -> None:
        """Starts, trains, writes the report; ends every process and leaves the cluster on any way out."""
        self._console.waiting_for("Ray")
        try:
            device = await asyncio.to_thread(connect)
            # Ray takes the signals for itself when it starts.
            watch_signals()
            bundles = plan_bundles(self._config, self._prepared.model.size, device)
            cluster = await start_cluster(
                self._config, bundles, device, self._folder.logs_path, self._console.waiting_for
            )
            try:
                await self._train(cluster)
            finally:
                await asyncio.shield(cluster.stop())
        except MaspoError as error:
            self._event(Event(kind="run_failed", message=str(error)))
            raise
        finally:
            disconnect()
        self._event(Event(kind="run_finished", message=f"{self._config.run.max_steps} steps done"))
        write_report([self._folder.path], self._folder.report_path)
        self._console.finished(self._folder.report_path)

    async def _train(self, cluster: RunningCluster) -> None:
        config, prepared = self._config, self._prepared
        ledger = Ledger()
        start, first_group, cursor_state = Progressed(), 0, None
        if self._resumed is not None:
            path, state = self._resumed
            await cluster.learners.load((path / LEARNER_FOLDER).resolve())
            start = Progressed(step=state.step, policy_version=state.policy_version)
            first_group, cursor_state = state.next_group, state.cursor
            self._event(Event(kind="resumed", message=f"from {path.name}"))
        cursor = PromptCursor(prepared.train.prompts, config.run.seed, cursor_state)
        stream = GroupStream(config, cluster.rollout, cursor, ledger, self._console.phase, first_group)
        metrics = open_metrics(self._folder, config.logging, config.model_dump(mode="json"), start.step + 1)
        probes = probe_sequences(
            [prompt.token_ids.tolist() for prompt in prepared.train.prompts[:256]],
            config.sync.probe_prompts,
            _PROBE_TOKENS,
        )
        controller = Controller(
            config,
            pool=cluster.rollout,
            learners=cluster.learners,
            stream=stream,
            ledger=ledger,
            evaluator=Evaluator(
                config, cluster.rollout, {name: held_out.prompts for name, held_out in prepared.evaluation.items()}
            ),
            checkpoints=CheckpointStore(self._folder.checkpoints_path),
            probes=probes,
            decoder=prepared.model.tokenizer,
            folder=self._folder,
            metrics=metrics,
            console=self._console,
        )
        try:
            await controller.run(start)
        finally:
            metrics.close()

    def _event(self, event: Event) -> None:
        self._folder.write_event(event)
        self._console.event(event)


async def _until_signal(run: _Run) -> signal.Signals | None:
    """Drives `run`; the first SIGINT or SIGTERM cancels it, so that its clean-up runs. Returns that signal."""
    received: list[signal.Signals] = []
    loop = asyncio.get_running_loop()

    def cancel(which: signal.Signals) -> None:
        received.append(which)
        task.cancel()

    def watch() -> None:
        for which in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(which, cancel, which)

    task = asyncio.ensure_future(run.drive(watch))
    watch()
    try:
        await task
    except asyncio.CancelledError:
        if not received:
            raise
    return received[0] if received else None
