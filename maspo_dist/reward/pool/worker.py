"""The verifier process: reads jobs, answers each with a verdict, dies with its pool.

Run as `python -m maspo_dist.reward.pool.worker SOCKET_FD BELL_FD PARENT_PID`.
Deadlines are the pool's: it kills.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
from collections import deque

from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.reward.pool.wire import Connection, Failed, Job, Ready, Recall, Recalled, Remember, Scored, Setup, ring
from maspo_dist.reward.registry import build_scorer
from maspo_dist.reward.safety import one_line, score_safely
from maspo_dist.reward.sample import Sample, Scorer
from maspo_dist.types import Verdict

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_MB = 1 << 20


class Inbox:
    """What the pool sends: jobs, some ahead of time, and answers to what a scorer asked meanwhile."""

    def __init__(self, connection: Connection, bell: int) -> None:
        self._connection = connection
        self._bell = bell
        self._ahead: deque[Job] = deque()

    def next_job(self) -> Job:
        """Waits for the next job. Raises EOFError when the pool is gone."""
        while not self._ahead:
            if not self._connection.poll():
                # All verdicts are out: nothing more is coming that they could be read with.
                ring(self._bell)
            message = self._connection.receive()
            assert isinstance(message, Job)
            self._ahead.append(message)
        return self._ahead.popleft()

    def recalled(self) -> Recalled:
        """Waits for the answer to a Recall; jobs that come first are kept."""
        ring(self._bell)
        while True:
            message = self._connection.receive()
            if isinstance(message, Recalled):
                return message
            assert isinstance(message, Job)
            self._ahead.append(message)


class PoolMemo:
    """The pool's memory of verdicts, asked over the wire."""

    def __init__(self, connection: Connection, inbox: Inbox) -> None:
        self._connection = connection
        self._inbox = inbox

    def recall(self, key: str) -> Verdict | None:
        self._connection.send(Recall(key))
        return self._inbox.recalled().verdict

    def remember(self, key: str, verdict: Verdict) -> None:
        self._connection.send(Remember(key, verdict))


def main(fd: int, bell: int, parent_pid: int) -> None:
    """Serves until the pool closes its end."""
    _die_with(parent_pid)
    connection = Connection(socket.socket(fileno=fd))
    setup = connection.receive()
    assert isinstance(setup, Setup)
    config = VerifierConfig.model_validate_json(setup.config)
    inbox = Inbox(connection, bell)
    try:
        scorers = _warm_scorers(config, PoolMemo(connection, inbox))
        _limit_memory(config.memory_mb)
    except Exception as error:  # whatever a user's module raises on import must reach the user
        connection.send(Failed(one_line(error)))
        return
    connection.send(Ready(_resident_mb()))
    _serve(connection, inbox, config, scorers)


def _serve(connection: Connection, inbox: Inbox, config: VerifierConfig, scorers: dict[str, Scorer]) -> None:
    grown_mb = (config.memory_mb + _resident_mb()) / 2
    count = 0
    while True:
        try:
            job = inbox.next_job()
        except EOFError:
            return
        count += 1
        sample = Sample(response=job.response, reference=job.reference, source=job.source)
        verdict, sound = score_safely(scorers[config.reward_for(job.source)], sample)
        spent = not sound or count >= config.recycle_after or (count % 64 == 0 and _resident_mb() > grown_mb)
        connection.send(Scored(verdict, spent))
        if spent:
            return


def _warm_scorers(config: VerifierConfig, memo: PoolMemo) -> dict[str, Scorer]:
    local = sorted(reward for reward in config.rewards() if not reward.startswith(("http://", "https://")))
    return {reward: build_scorer(reward, config, memo) for reward in local}


def _die_with(parent_pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # Orphans of candidate programs come to us, where the pool finds them.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # Candidate programs run as the same user; this keeps them out of our memory.
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if os.getppid() != parent_pid:
        sys.exit("the pool died first")


def _limit_memory(memory_mb: int) -> None:
    """Bounds growth: address space may grow by what is left of `memory_mb` after start."""
    resident_mb = _resident_mb()
    if resident_mb > memory_mb * 0.8:
        raise MemoryError(f"memory_mb is {memory_mb}, but a verifier process needs {resident_mb:.0f} MB to start")
    virtual_bytes = _statm(0) * resource.getpagesize()
    limit = virtual_bytes + int((memory_mb - resident_mb) * _MB)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _resident_mb() -> float:
    return _statm(1) * resource.getpagesize() / _MB


def _statm(field: int) -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - twice as fast, in a hot loop
        return int(file.read().split()[field])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
