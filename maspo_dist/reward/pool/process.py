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
from maspo_dist.reward.pool.lifetime import kill_tree
from maspo_dist.reward.pool.wire import Connection, Started, encode

#: A verifier uses one core; more threads only cost memory.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
#: Longest wait for a process to end after its connection ended.
_EXIT_WAIT_S = 0.3


def start_process(module: str, theirs: socket.socket) -> subprocess.Popen[bytes]:
    """Starts `python -m MODULE DESCRIPTOR PARENT` in a session of its own. DESCRIPTOR is `theirs`; it is closed here.

    By exec, so that the process inherits no torch, no Ray and no locks. It can import what this process can, and
    computes on one core.
    """
    with theirs:
        return subprocess.Popen(
            [sys.executable, "-m", module, str(theirs.fileno()), str(os.getpid())],
            env=os.environ | _ONE_THREAD | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )


class VerifierProcess:
    """A process as `start_process` starts it.

    The kernel kills it when the thread that started it ends (PR_SET_PDEATHSIG): start it from a thread that lives
    as long as the process should.
    """

    def __init__(self, config: VerifierConfig) -> None:
        """Starts the process and waits until its imports are done.

        Raises VerifierError when it cannot serve within `start_timeout_s`.
        """
        try:
            ours, theirs = socket.socketpair()
            try:
                self._process = start_process("maspo_dist.reward.pool.worker", theirs)
            except OSError:
                ours.close()
                raise
        except OSError as error:
            raise VerifierError(f"a verifier process cannot be started: {error.strerror}") from None
        self.connection = Connection(ours)
        #: How many verdicts were read.
        self.verdicts = 0
        deadline = time.monotonic() + config.start_timeout_s
        try:
            self.connection.send(encode(config), deadline)
            failure = self.connection.receive(Started, deadline).failure
        except TimeoutError:
            failure = f"a verifier process did not start within {config.start_timeout_s:g} s"
        except (EOFError, OSError, ValueError):
            failure = f"a verifier process died while starting ({self.death()})"
        if failure is not None:
            self.close()
            raise VerifierError(failure)

    @property
    def pid(self) -> int:
        return self._process.pid

    def death(self) -> str:
        """How the process ended, in words. Waits a moment for its end."""
        try:
            code = self._process.wait(timeout=_EXIT_WAIT_S)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """SIGKILLs the process and everything it started, and reaps it. Any thread may call it, at any time."""
        if self._process.poll() is None:
            kill_tree(self._process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5.0)

    def close(self) -> None:
        """Kills the process and closes the connection. Only the thread that owns the process calls it, once."""
        self.kill()
        self.connection.close()
