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
from maspo_dist.reward.pool.kill import kill_tree
from maspo_dist.reward.pool.wire import Bell, Connection, Failed, Message, Ready, Setup

#: A verifier uses one core; more threads only cost memory.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
#: From the end of the connection to the end of the process.
_LAST_WORDS_S = 0.3
#: While a process has work ahead, its verdicts are fetched this often; several at a time cost as much as one.
_PATIENCE_S = 0.008


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
        self._bell = Bell()
        descriptors = (theirs.fileno(), self._bell.ringer)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "maspo_dist.reward.pool.worker", *map(str, descriptors), str(os.getpid())],
                env=os.environ | _ONE_THREAD | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=descriptors,
                start_new_session=True,
            )
        self._bell.close_ringer()
        self.connection = Connection(ours)
        try:
            self._await_ready(config)
        except BaseException:
            self.close()
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

    def receive(self, deadline: float, *, patient: bool) -> Message:
        """The next message; a patient caller lets a few gather. Raises as `Connection.receive` does."""
        if patient and not self.connection.has_more:
            self._bell.wait(_PATIENCE_S)
        return self.connection.receive(deadline)

    def death(self) -> str:
        """How the process ended, in words; waits for it a moment."""
        try:
            code = self._process.wait(timeout=_LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """SIGKILLs the process and everything it started, and reaps it. Any thread may, at any time."""
        if self._process.poll() is None:
            kill_tree(self._process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5.0)

    def close(self) -> None:
        """Kills the process and closes both ends; for the thread that owns it, once."""
        self.kill()
        self.connection.close()
        self._bell.close()
