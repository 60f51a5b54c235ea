"""The processes of environments, from inside. Run as `python -m maspo_dist.environments.fork_server FD PARENT_PID`.

    rollout worker ─exec─► keeper ─fork─► fork server ─fork─► environment of trajectory 1, 2, …

keeper        imports nothing of the user's; when the rollout worker or the fork server ends, it ends all that is left
fork server   imports the user's module once, forks the process of each trajectory, and kills it when told

What an environment starts belongs to its trajectory. A process that loses its parent becomes a child of its
environment. When that has ended, it becomes a child of the fork server, which kills children that it does not know.

    host → fork server    EnvironmentConfig and reasoning tags, then Fork with the trajectory's socket, or End
    fork server → host    Started, then Ended for each process, in any order
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from maspo_dist.config.environment import EnvironmentConfig
from maspo_dist.environments.memory import memory_limit
from maspo_dist.environments.process import serve
from maspo_dist.environments.registry import environment_maker
from maspo_dist.errors import ConfigError
from maspo_dist.reward.pool.lifetime import adopt_orphans, end_with_parent, hide_memory, kill_children
from maspo_dist.reward.sample import one_line

#: Longest packet from the host, which is its configuration.
PACKET_BYTES = 1 << 18
#: Seconds for a thread to end that was joined: the kernel lists it a moment longer.
_ENDING_THREAD_S = 1.0
#: Seconds from the end of a process to the search for what it left.
_SWEEP_S = 0.5


def main(fd: int, parent_pid: int) -> None:
    """Keeps a fork server. Exits as the fork server does, 128 + n for signal n."""
    # Before the signal of `end_with_parent` can come.
    wakeup = _Wakeup(signal.SIGCHLD, signal.SIGTERM)
    end_with_parent(parent_pid, signal.SIGTERM)
    adopt_orphans()
    control = socket.socket(fileno=fd)
    with tempfile.TemporaryDirectory(prefix="environments-", ignore_cleanup_errors=True) as scratch:
        # What killed processes leave is removed with it.
        os.environ["TMPDIR"] = tempfile.tempdir = scratch
        keeper_pid = os.getpid()
        server = os.fork()
        if server == 0:
            _run_and_exit(lambda: _serve_host(control, wakeup, keeper_pid))
        control.close()
        code = None
        while code is None:
            if signal.SIGTERM in wakeup.arrived():
                os.kill(server, signal.SIGKILL)
            code = _ended().get(server)
        kill_children()
    sys.exit(128 - code if code < 0 else code)


def _serve_host(control: socket.socket, wakeup: _Wakeup, keeper_pid: int) -> None:
    wakeup.close()
    end_with_parent(keeper_pid)
    adopt_orphans()
    ForkServer(control).run()


class ForkServer:
    """Single-threaded, and runs no code of the user's after the import, so that forks are safe and it never hangs."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._wakeup = _Wakeup(signal.SIGCHLD)
        #: Process id by number of its trajectory, and back.
        self._pids: dict[int, int] = {}
        self._numbers: dict[int, int] = {}
        self._sweep_at: float | None = None
        #: What the user's module started when it was imported.
        self._own: set[int] = set()
        self._memory_bytes = 0

    def run(self) -> None:
        """Serves until the host closes its end."""
        first = json.loads(self._control.recv(PACKET_BYTES))
        config = EnvironmentConfig.model_validate_json(first["config"])
        try:
            make = environment_maker(config, first["reasoning_tags"])
            _require_one_thread(config)
        except Exception as error:  # whatever a user's module raises on import must reach the user
            self._tell({"failure": str(error) if isinstance(error, ConfigError) else one_line(error)})
            return
        # Collections would write to every object, and so copy the memory that forks share.
        gc.collect()
        gc.freeze()
        self._memory_bytes = memory_limit(config.memory_mb)
        self._own = {child.pid for child in psutil.Process().children()}
        self._tell({"failure": None})
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wakeup.reading, select.POLLIN)
        while True:
            wait_s = None if self._sweep_at is None else max(self._sweep_at - time.monotonic(), 0.0)
            ready = {fd for fd, _ in poll.poll(None if wait_s is None else wait_s * 1000)}
            if self._wakeup.reading in ready:
                self._wakeup.arrived()
                self._reap()
            if self._control.fileno() in ready and not self._obey(make, config):
                return
            if self._sweep_at is not None and time.monotonic() >= self._sweep_at:
                self._sweep()

    def _obey(self, make: Callable[[], Any], config: EnvironmentConfig) -> bool:
        """Does what one packet says. False when the host is gone."""
        packet, descriptors, *_ = socket.recv_fds(self._control, 1024, 1, socket.MSG_CMSG_CLOEXEC)
        if not packet:
            return False
        order = json.loads(packet)
        if "fork" in order:
            with socket.socket(fileno=descriptors[0]) as stream:
                self._fork(order["fork"], stream, make, config)
        elif (pid := self._pids.get(order["end"])) is not None:
            # Its session; and itself, in case it has not made a session yet.
            for kill in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError):
                    kill(pid, signal.SIGKILL)
        return True

    def _fork(self, number: int, stream: socket.socket, make: Callable[[], Any], config: EnvironmentConfig) -> None:
        server_pid = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._tell({"ended": number, "how": f"it cannot be started: {error.strerror}"})
            return
        if pid == 0:
            _run_and_exit(lambda: self._become(server_pid, stream, make, config))
        self._pids[number], self._numbers[pid] = pid, number

    def _become(
        self, server_pid: int, stream: socket.socket, make: Callable[[], Any], config: EnvironmentConfig
    ) -> None:
        os.setsid()
        end_with_parent(server_pid)
        adopt_orphans()
        hide_memory()
        self._wakeup.close()
        self._control.close()
        serve(stream, make, config, self._memory_bytes)

    def _reap(self) -> None:
        for pid, code in _ended().items():
            number = self._numbers.pop(pid, None)
            if number is not None:
                del self._pids[number]
                how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
                self._tell({"ended": number, "how": how})
            self._sweep_at = self._sweep_at or time.monotonic() + _SWEEP_S

    def _sweep(self) -> None:
        """Kills children that no trajectory has: what processes that have ended left behind."""
        self._sweep_at = None
        for child in psutil.Process().children():
            if child.pid not in self._numbers and child.pid not in self._own:
                # The next search finds what it leaves in turn, once it has been reaped.
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()

    def _tell(self, message: dict[str, Any]) -> None:
        self._control.send(json.dumps(message).encode())


def _run_and_exit(work: Callable[[], None]) -> None:
    """Runs `work` in a fork and ends it, so that nothing of the code that forked goes on there."""
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


class _Wakeup:
    """A descriptor, `reading`, that becomes readable when one of `signals` arrives."""

    def __init__(self, *signals: signal.Signals) -> None:
        self._signals = signals
        self.reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in signals:
            signal.signal(number, lambda *_: None)

    def arrived(self) -> bytes:
        """Waits for signals: their numbers."""
        return os.read(self.reading, 1024)

    def close(self) -> None:
        """For a fork: restores default signal handling and closes the pipe, so that a signal here cannot wake the
        parent.
        """
        signal.set_wakeup_fd(-1)
        for number in self._signals:
            signal.signal(number, signal.SIG_DFL)
        os.close(self.reading)
        os.close(self._writing)


def _ended() -> dict[int, int]:
    """Reaps children that have ended: the exit code of each, −n for signal n."""
    codes: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            codes[found[0]] = os.waitstatus_to_exitcode(found[1])
    return codes


def _require_one_thread(config: EnvironmentConfig) -> None:
    give_up_s = time.monotonic() + _ENDING_THREAD_S
    while (threads := len(list(Path("/proc/self/task").iterdir()))) > 1 and time.monotonic() < give_up_s:
        time.sleep(0.01)
    if threads > 1:
        raise ConfigError(
            f"environment.kind is {config.kind!r}: importing what it names starts {threads - 1} threads, "
            "which a fork would lack; import what starts them in reset, or in the constructor of the class"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
