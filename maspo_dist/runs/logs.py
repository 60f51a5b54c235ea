"""Log lines that name their process, and a file for the output of libraries.

Each process has one file in logs/ of the run folder. Our own warnings also reach the console; the output of Ray, vLLM
and DeepSpeed only reaches the file.
"""

import faulthandler
import io
import logging
import os
import signal
import sys
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

#: Top-level packages whose warnings reach the console.
_OUR_LOGGERS = ("maspo_dist", "actors")
#: Marks the handlers that `configure_logging` made.
_HANDLER_NAME = "maspo_dist"


def configure_logging(process: str, logs_path: Path, console: IO[str] | None = None) -> Path:
    """Sends all loggers from INFO up to `<logs_path>/<process>.log`; returns that path.

    `process` is such as controller or rollout-3. Our own loggers also write to `console`, if given, from WARNING up.
    A second call replaces the handlers of the first.
    """
    logs_path.mkdir(parents=True, exist_ok=True)
    path = logs_path / f"{process}.log"
    to_file = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    to_file.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {process} %(name)s: %(message)s"))
    _set_handler(logging.getLogger(), to_file)
    for name in _OUR_LOGGERS:
        to_console = logging.StreamHandler(console) if console is not None else logging.NullHandler()
        to_console.setLevel(logging.WARNING)
        to_console.setFormatter(logging.Formatter(f"%(levelname)s {process}: %(message)s"))
        _set_handler(logging.getLogger(name), to_console)
    return path


class LogStream(io.TextIOBase):
    """Writes the output of a library to the log; for contextlib.redirect_stdout."""

    def write(self, text: str) -> int:
        if text.strip():
            logger.info("%s", text.strip())
        return len(text)


def redirect_output(path: Path) -> None:
    """From now on, appends the output of this process, its C libraries and its children to `path`, and at SIGUSR1 the
    stacks of its threads; for actors.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    faulthandler.register(signal.SIGUSR1, file=2)


def _set_handler(logger: logging.Logger, handler: logging.Handler) -> None:
    logger.setLevel(logging.INFO)
    for old in [old for old in logger.handlers if old.name == _HANDLER_NAME]:
        logger.removeHandler(old)
        old.close()
    handler.name = _HANDLER_NAME
    logger.addHandler(handler)
