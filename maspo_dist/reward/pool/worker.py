"""The verifier process: answers each sample with a verdict, and ends with its pool.

Run as `python -m maspo_dist.reward.pool.worker SOCKET_FD PARENT_PID`. It knows no deadlines: the pool kills it.
"""

from __future__ import annotations

import resource
import socket
import sys

import psutil

from maspo_dist.config.verifier import VerifierConfig, is_remote
from maspo_dist.reward.pool.lifetime import adopt_orphans, end_with_parent, hide_memory
from maspo_dist.reward.pool.wire import Connection, Scored, Started, encode
from maspo_dist.reward.registry import build_verifier
from maspo_dist.reward.sample import Sample, Verifier, one_line, score_safely

_MB = 1 << 20
#: Samples between two looks at the memory of the process.
_LOOK_EVERY = 64
_MYSELF = psutil.Process()


def main(fd: int, parent_pid: int) -> None:
    """Serves until the pool closes its end."""
    # The pool finds the orphans of candidate programs among our children.
    adopt_orphans()
    # Candidate programs run as the same user.
    hide_memory()
    end_with_parent(parent_pid)
    connection = Connection(socket.socket(fileno=fd))
    config = connection.receive(VerifierConfig)
    try:
        local = sorted(reward for reward in config.rewards() if not is_remote(reward))
        verifiers = {reward: build_verifier(reward, config) for reward in local}
        _limit_memory(config.memory_mb)
    except Exception as error:  # whatever a user's module raises on import must reach the user
        connection.send(encode(Started(failure=one_line(error))))
        return
    connection.send(encode(Started()))
    _serve(connection, config, verifiers)


def _serve(connection: Connection, config: VerifierConfig, verifiers: dict[str, Verifier]) -> None:
    grown_mb = (config.memory_mb + _resident_mb()) / 2
    count = 0
    spent = False
    while not spent:
        try:
            sample = connection.receive(Sample)
        except EOFError:
            return
        count += 1
        verdict, sound = score_safely(verifiers[config.reward_for(sample.source)].score, sample)
        has_grown = count % _LOOK_EVERY == 0 and _resident_mb() > grown_mb
        spent = not sound or has_grown or count >= config.recycle_after
        connection.send(encode(Scored(number=count, verdict=verdict, spent=spent)))


def _limit_memory(memory_mb: int) -> None:
    """Bounds growth: the address space may grow by what the start left of `memory_mb`."""
    resident_mb = _resident_mb()
    if resident_mb > memory_mb * 0.8:
        raise MemoryError(f"memory_mb is {memory_mb}, but a verifier process needs {resident_mb:.0f} MB to start")
    limit = _MYSELF.memory_info().vms + int((memory_mb - resident_mb) * _MB)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _resident_mb() -> float:
    return float(_MYSELF.memory_info().rss / _MB)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
