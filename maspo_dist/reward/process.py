"""One verifier process as the pool sees it: clean start, hard kill, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.errors import VerifierError
from maspo_dist.reward.kill import kill_tree
from maspo_dist.reward.wire import Connection, Failed, Ready, Setup

#: A verifier uses one core; more threads only cost memory.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


#: From the end of the connection to the end of the process.
_LAST_WORDS_S = 0.3


class VerifierProcess:
    """A process of its own session, started by exec so that it inherits no torch, no Ray, no locks.

    It dies with the thread that started it (PR_SET_PDEATHSIG), so start it from a thread that lives
    as long as the process should.
    """

    def __init__(self, config: VerifierConfig) -> None:
        """Starts the process and waits until its imports are done.

        Raises VerifierError when it cannot serve within `start_timeout_s`.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "maspo_dist.reward.worker", str(theirs.fileno()), str(os.getpid())],
                env=os.environ | _ONE_THREAD | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self.connection = Connection(ours)
        try:
            self._await_ready(config)
        except BaseException:
            self.kill()
            raise

    def _await_ready(self, config: VerifierConfig) -> None:
        deadline = time.monotonic() + config.start_timeout_s
        try:
            self.connection.send(Setup(config.model_dump_json()), deadline=deadline)
            reply = self.connection.receive(deadline)
        except TimeoutError:
            raise VerifierError(f"a verifier process did not start within {config.start_timeout_s:g} s") from None
        except (EOFError, OSError):
            raise VerifierError(f"a verifier process died while starting ({self.death()})") from None
        if isinstance(reply, Failed):
            raise VerifierError(reply.reason)
        if not isinstance(reply, Ready):
            raise VerifierError(f"a verifier process answered {type(reply).__name__} instead of Ready")

    @property
    def pid(self) -> int:
        return self._process.pid

    def death(self) -> str:
        """How the process ended, in words; waits for it a moment."""
        try:
            code = self._process.wait(timeout=_LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """SIGKILLs the process and everything it started, and reaps it."""
        if self._process.poll() is None:
            kill_tree(self._process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5.0)
        self.connection.close()
