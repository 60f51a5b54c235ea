"""`maspo-dist` in this process, where everything is imported already."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from unittest.mock import patch

from actors.cli import main


@dataclass(frozen=True)
class Called:
    """Exit code and output of a command."""

    returncode: int
    stdout: str
    stderr: str


def call(*arguments: str) -> Called:
    """Runs `maspo-dist ARGUMENTS…`, and leaves the loggers as they were."""
    stdout, stderr = StringIO(), StringIO()
    argv = patch.object(sys, "argv", ["maspo-dist", *arguments])
    with argv, _loggers_restored(), redirect_stdout(stdout), redirect_stderr(stderr):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        else:
            code = 0
    return Called(code, stdout.getvalue(), stderr.getvalue())


@contextmanager
def _loggers_restored() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in (None, "maspo_dist", "actors")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    try:
        yield
    finally:
        for logger, level, handlers in before:
            logger.setLevel(level)
            for handler in [handler for handler in logger.handlers if handler not in handlers]:
                logger.removeHandler(handler)
                handler.close()
