"""Log lines that name role, rank and step, and a place for everyone else's chatter.

Each process has one file under the run folder's logs/. Our own warnings reach the console as well;
what Ray, vLLM and DeepSpeed print goes to the file alone.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

#: Top-level packages whose warnings the user should see.
OUR_LOGGERS = ("maspo_dist", "actors")

_FILE_FORMAT = "%(asctime)s %(levelname)s %(where)s %(name)s: %(message)s"
_CONSOLE_FORMAT = "%(levelname)s %(where)s: %(message)s"


class LogContext(logging.Filter):
    """Where a process stands. Set `step` as the run goes on; the next line carries it.

    role    controller, rollout, learner or verifier
    rank    number among its like; None where there is but one
    """

    def __init__(self, role: str, rank: int | None = None) -> None:
        super().__init__()
        self.role = role
        self.rank = rank
        self.step: int | None = None

    @property
    def process_name(self) -> str:
        return self.role if self.rank is None else f"{self.role}-{self.rank}"

    def filter(self, record: logging.LogRecord) -> bool:
        record.where = self.process_name if self.step is None else f"{self.process_name} step {self.step}"
        return True


def configure_logging(context: LogContext, logs_path: Path, console: IO[str] | None = None) -> Path:
    """Sends all loggers to `<logs_path>/<process_name>.log` from INFO up; returns that path.

    Ours also go to `console` from WARNING up, where one is given. Calling again replaces what an
    earlier call set up.
    """
    logs_path.mkdir(parents=True, exist_ok=True)
    path = logs_path / f"{context.process_name}.log"
    to_file = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    to_file.setFormatter(logging.Formatter(_FILE_FORMAT))
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    _replace_handler(root, to_file, context)
    for name in OUR_LOGGERS:
        ours = logging.getLogger(name)
        ours.setLevel(logging.INFO)
        to_console = logging.StreamHandler(console) if console is not None else logging.NullHandler()
        to_console.setLevel(logging.WARNING)
        to_console.setFormatter(logging.Formatter(_CONSOLE_FORMAT))
        _replace_handler(ours, to_console, context)
    return path


def silence_on_console(logger_names: Iterable[str]) -> None:
    """Takes console handlers off third-party loggers, whose lines then reach the file alone."""
    for name in logger_names:
        logger = logging.getLogger(name)
        logger.propagate = True
        for handler in list(logger.handlers):
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                logger.removeHandler(handler)


class LogStream(io.TextIOBase):
    """Takes what a library prints to the log; for contextlib.redirect_stdout."""

    def write(self, text: str) -> int:
        if text.strip():
            logger.info("%s", text.strip())
        return len(text)


def redirect_output(path: Path) -> None:
    """Appends standard output and error of this process, its C libraries and its later children to `path`.

    For actors, which have no screen of their own. Lasts for the life of the process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def _replace_handler(logger: logging.Logger, handler: logging.Handler, context: LogContext) -> None:
    for old in list(logger.handlers):
        if any(isinstance(a_filter, LogContext) for a_filter in old.filters):
            logger.removeHandler(old)
            old.close()
    handler.addFilter(context)
    logger.addHandler(handler)
