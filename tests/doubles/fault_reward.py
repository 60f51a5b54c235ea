"""The reward of these runs: even texts are right. Its process, or the actor that owns it, may be struck."""

from __future__ import annotations

import os
import signal

from doubles.fault_script import strikes


def score(response: str, reference: str, source: str) -> float:
    if strikes(reference, "kill_verifier_process"):
        os.kill(os.getpid(), signal.SIGKILL)
    if strikes(reference, "kill_verifier"):
        os.kill(os.getppid(), signal.SIGKILL)
    if strikes(reference, "freeze_verifier"):
        os.kill(os.getppid(), signal.SIGSTOP)
    return float(int(response) % 2 == 0)
