"""Log lines that name role and rank, and a file for the output of libraries.

Each process has one file under the run folder's logs/. Our own warnings reach the console as well; the output of Ray,
vLLM and DeepSpeed goes to the file alone.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

#: Top-level packages whose warnings the user should see.
OUR_LOGGERS = ("maspo_dist", "actors")

_FILE_FORMAT = "%(asctime)s %(levelname)s %(where)s %(name)s: %(message)s"
_CONSOLE_FORMAT = "%(levelname)s %(where)s: %(message)s"


class LogContext(logging.Filter):
    """Adds the name of the process to its log lines.

    role    controller, rollout, learner or verifier
    rank    number among the processes of this role; None where there is only one
    """

    def __init__(self, role: str, rank: int | None = None) -> None:
        super().__init__()
        self.role = role
        self.rank = rank

    @property
    def process_name(self) -> str:
        return self.role if self.rank is None else f"{self.role}-{self.rank}"

    def filter(self, record: logging.LogRecord) -> bool:
        record.where = self.process_name
        return True


def configure_logging(context: LogContext, logs_path: Path, console: IO[str] | None = None) -> Path:
    """Sends all loggers to `<logs_path>/<process_name>.log` from INFO up; returns that path.

    Our own loggers also write to `console`, if given, from WARNING up. A second call replaces the handlers of the
    first.
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


class LogStream(io.TextIOBase):
    """Writes the output of a library to the log; for contextlib.redirect_stdout."""

    def write(self, text: str) -> int:
        if text.strip():
            logger.info("%s", text.strip())
        return len(text)


def redirect_output(path: Path) -> None:
    """Appends standard output and error of this process, its C libraries and its later children to `path`.

    For actors, which have no console of their own. It lasts as long as the process.
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
