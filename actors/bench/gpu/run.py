"""Proves each GPU path on this machine: `maspo-dist bench gpu`.

Checks run in processes with deadlines, so a crash, a hang or memory that runs out costs one check: the checks after it
run in a fresh process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from actors.bench.gpu.checks import Check, chosen
from actors.bench.gpu.child import RESULTS
from actors.bench.gpu.result import CheckResult, crashed, decode
from actors.bench.gpu.setting import Setting
from actors.engines.settings import engine_environment
from maspo_dist.reward.pool.lifetime import kill_tree

#: Groups side by side at tiny scale, where figures do not matter: starts leave a core idle half of the time.
_TINY_JOBS = 2
_LOG_CHARACTERS = 4000


def run_checks(only: Sequence[str], setting: Setting, write: Callable[[str], None]) -> bool:
    """Writes a line of JSON per check, then a line with the sum; returns whether all checks passed.

    Raises UserError for an unknown check.
    """
    started_s = time.monotonic()
    gpus = torch.cuda.device_count()
    groups, left_out = [], []
    for group in chosen(only):
        # On the CPU ranks share the cores. A check that was asked for by name runs, and says what it lacks.
        fitting = tuple(check for check in group if only or setting.device == "cpu" or check.gpus <= max(1, gpus))
        left_out += [check.name for check in group if check not in fitting]
        groups += [fitting] if fitting else []
    results: list[CheckResult] = []
    processes = CheckProcesses(setting)
    with ThreadPoolExecutor(_TINY_JOBS if setting.is_tiny else 1) as threads:
        try:
            # At tiny scale the longest start first, so that none of them is left for the end.
            order = sorted(groups, key=_allowed_s, reverse=True) if setting.is_tiny else groups
            parts = {group: threads.submit(processes.results, group) for group in order}
            for group in groups:
                part = parts[group].result()
                for result in part:
                    write(result.to_json())
                results += part
        except BaseException:
            processes.stop()
            raise
    failed = [result.check for result in results if not result.ok]
    summary = {
        "check": "all",
        "ok": not failed,
        "device": setting.device,
        "passed": len(results) - len(failed),
        "failed": failed,
        "left_out": left_out,
        "seconds": round(time.monotonic() - started_s, 1),
    }
    write(json.dumps(summary))
    return not failed


def _allowed_s(group: Sequence[Check]) -> float:
    return sum(check.deadline_s for check in group)


class CheckProcesses:
    """Starts processes for groups of checks, on any number of threads; `stop` ends them from another thread."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._is_stopped = threading.Event()

    def stop(self) -> None:
        self._is_stopped.set()

    def results(self, group: Sequence[Check]) -> list[CheckResult]:
        """One per check. A process that ended early is followed by another for the rest."""
        results: list[CheckResult] = []
        while len(results) < len(group) and not self._is_stopped.is_set():
            results += self._of_one_process(group[len(results) :])
        return results

    def _of_one_process(self, checks: Sequence[Check]) -> list[CheckResult]:
        """Results of the first of `checks`, at least one."""
        with TemporaryDirectory(prefix="maspo-gpu-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            log = folder / "log"
            started_s = time.monotonic()
            end = self._run(checks, folder, log)
            results = _results(folder)
            if not results or (end is not None and len(results) < len(checks) and results[-1].ok):
                reason = end or "its process left no result"
                check_s = time.monotonic() - started_s - sum(result.check_s for result in results)
                results.append(crashed(checks[len(results)].name, self._setting.device, check_s, reason))
            if not all(result.ok for result in results):
                print(log.read_text(errors="replace")[-_LOG_CHARACTERS:], file=sys.stderr)
            return results

    def _run(self, checks: Sequence[Check], folder: Path, log: Path) -> str | None:
        """Runs a process to its end, or to the deadline of a check; why it did not end by itself, or None."""
        setting = self._setting
        command = [sys.executable, "-m", "actors.bench.gpu.child", str(folder), setting.device]
        command += ["tiny" if setting.is_tiny else "full", *(f"{check.name}={check.target}" for check in checks)]
        cores = 1 if setting.is_tiny else os.cpu_count() or 1
        environment = {**os.environ, **engine_environment(setting.device, cores)}
        # The checks are about this machine.
        environment.pop("RAY_ADDRESS", None)
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, start_new_session=True
            )
        try:
            return self._watch(process, checks, folder)
        finally:
            # Kills all that the check has started (ranks, engines, Ray), also when the check hangs or was killed.
            kill_tree(process.pid)
            process.wait()

    def _watch(self, process: subprocess.Popen[bytes], checks: Sequence[Check], folder: Path) -> str | None:
        done, started_s = 0, time.monotonic()
        while process.poll() is None:
            if self._is_stopped.is_set():
                return "interrupted"
            if (results := len(_results(folder))) > done:
                done, started_s = results, time.monotonic()
            deadline_s = checks[min(done, len(checks) - 1)].deadline_s
            if time.monotonic() - started_s > deadline_s:
                return f"DeadlineError: no end within {deadline_s:g} s; its process was killed"
            time.sleep(0.1)
        if process.returncode < 0:
            return f"its process ended by {signal.Signals(-process.returncode).name}"
        return None if process.returncode == 0 else f"its process ended with exit code {process.returncode}"


def _results(folder: Path) -> list[CheckResult]:
    """Of the lines that are whole."""
    path = folder / RESULTS
    if not path.exists():
        return []
    return [decode(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
