"""Faults that strike once, where a prompt that names one comes by.

A prompt's reference is `KIND:MARKER`, or `KIND:` for one that strikes each time, or empty. The marker is a file
that is made when the fault strikes; where it is there already, nothing happens.
"""

from __future__ import annotations

import os
import signal
import threading


def strikes(reference: str, kind: str) -> bool:
    """Whether the fault that `reference` names is of `kind` and strikes now."""
    named, _, marker = reference.partition(":")
    if named != kind:
        return False
    if not marker:
        return True
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def freeze() -> None:
    """Stops this process for good. A thread other than the main thread would run on for a moment, so it waits."""
    os.kill(os.getpid(), signal.SIGSTOP)
    threading.Event().wait()
