"""`maspo-dist` in this process, where everything is imported already."""

from __future__ import annotations

import sys
from contextlib import redirect_stderr, redirect_stdout
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
    """Runs `maspo-dist ARGUMENTS…`."""
    stdout, stderr = StringIO(), StringIO()
    with patch.object(sys, "argv", ["maspo-dist", *arguments]), redirect_stdout(stdout), redirect_stderr(stderr):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        else:
            code = 0
    return Called(code, stdout.getvalue(), stderr.getvalue())
