"""A process group of learner rank 0 and the processes of engines: gloo on CPUs, NCCL on GPUs, by the same code.

Members meet at a TCP store in the process of rank 0. A member that fails sets a key there, and all members look at the
key while they wait, so a failure that a member notices ends the waits of all.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import timedelta

import torch
from torch._C._distributed_c10d import Backend, PrefixStore, ProcessGroup, ProcessGroupGloo, TCPStore, Work
from torch.distributed import distributed_c10d as c10d

from actors.interfaces import BroadcastGroup
from maspo_dist.errors import WeightTransferError

#: Seconds between two looks at a broadcast of this process, at the reports of others, and at `_ABANDONED`.
_LOOK_S, _LOOK_AT_REPORTS_S, _LOOK_FOR_FAILURE_S = 0.0002, 0.002, 0.05
#: The key of a group that a member has abandoned; its value is the reason.
_ABANDONED = "abandoned"
#: What torch reads when it makes an NCCL group.
_BLOCKING_WAIT = "TORCH_NCCL_BLOCKING_WAIT"


def serve_store(address: str) -> TCPStore:
    """A store that serves at a free port of `address` until it is collected."""
    return TCPStore(address, 0, None, is_master=True, wait_for_workers=False)


def abandon(store: TCPStore, group: BroadcastGroup, reason: str) -> None:
    """Makes all members of `group` that wait, now or later, raise WeightTransferError with the first `reason`."""
    PrefixStore(group.name, store).compare_set(_ABANDONED, "", reason)


class GroupMember:
    """Member `rank` of `group`. Once a method has raised WeightTransferError, the group is of no use to any member."""

    def __init__(self, group: BroadcastGroup, rank: int, device: torch.device) -> None:
        """Returns when all members have joined. Raises WeightTransferError, as all methods do when any member fails."""
        self.group = group
        self.rank = rank
        self.device = device
        self._everyone = range(1 + group.engine_ranks)
        self._process_group: ProcessGroup | None = None
        self._works: list[Work] = []
        timeout = timedelta(seconds=group.deadline_s)
        try:
            self._server = TCPStore(group.address, group.port, None, is_master=False, timeout=timeout)
        except RuntimeError as error:
            raise WeightTransferError(
                f"learner rank 0 does not answer at {group.address}:{group.port}: {error}"
            ) from error
        self._store = PrefixStore(group.name, self._server)
        self.extend(group.deadline_s)
        # Nothing can interrupt the making of a process group, so all members must be there first.
        self.report("there")
        self.until_reported("there", self._everyone, "the other members")
        with self._failing_together("joining"):
            self._process_group = _process_group(self._store, rank, len(self._everyone), device, timeout)
        self._connect()

    def extend(self, seconds: float) -> None:
        """Starts a part of a broadcast, in which waits end after `seconds`."""
        self._deadline_s = time.monotonic() + seconds

    def report(self, what: str) -> None:
        """Reports `what` for this rank. `until_reported(what, …)` in another member returns when all ranks that it
        waits for have reported.
        """
        with self._failing_together(what):
            self._store.set(f"{what}-{self.rank}", "")

    def until_reported(self, reported: str, ranks: range, what: str) -> None:
        """Waits until all `ranks` have reported; an error names the wait as `what`."""
        self._until(lambda: self._store.check([f"{reported}-{rank}" for rank in ranks]), what, _LOOK_AT_REPORTS_S)

    def broadcast(self, tensor: torch.Tensor) -> Work:
        """Starts to send `tensor` from rank 0 to all members; it may not change until `wait` has returned."""
        with self._failing_together("a broadcast"):
            if self._process_group is None:
                raise WeightTransferError("this process has left the group")
            work = self._process_group.broadcast(tensor, 0)
        self._works.append(work)
        return work

    def wait(self, work: Work, what: str) -> None:
        """Waits until the tensor of `work` is sent or received; on a GPU, for the work of the current stream."""
        if self.device.type == "cuda":
            self._until(work.is_completed, what, _LOOK_S)
        else:
            self._until(lambda: _has_ended(work), what, 0)
        with self._failing_together(what):
            work.wait()
        self._works.remove(work)

    def _connect(self) -> None:
        """Sends a first tensor. NCCL then connects in the thread that calls it, and nothing can interrupt that."""
        group, started = self._process_group, Future[Work]()
        assert group is not None

        def start() -> None:
            try:
                started.set_result(group.broadcast(torch.zeros(1, device=self.device), 0))
            except BaseException as error:  # the waiting thread raises it
                started.set_exception(error)

        threading.Thread(target=start, name="connect group", daemon=True).start()
        self._until(started.done, "the first connection", _LOOK_AT_REPORTS_S)
        with self._failing_together("the first connection"):
            work = started.result()
        self._works.append(work)
        self.wait(work, "the first broadcast")

    def _until(self, is_met: Callable[[], bool], what: str, look_s: float) -> None:
        look_for_failure_s = 0.0
        with self._failing_together(what):
            while not is_met():
                now_s = time.monotonic()
                if now_s > look_for_failure_s:
                    look_for_failure_s = now_s + _LOOK_FOR_FAILURE_S
                    if self._store.check([_ABANDONED]):
                        raise WeightTransferError("another member has abandoned the group")
                if now_s > self._deadline_s:
                    deadline = f"the deadline of {self.group.deadline_s:g} s"
                    raise WeightTransferError(f"{deadline} has passed; it is a share of cluster.heartbeat_timeout_s")
                time.sleep(look_s)

    def leave(self, reason: str) -> None:
        """Abandons the group; may be called while another thread waits."""
        with contextlib.suppress(RuntimeError):
            abandon(self._server, self.group, reason)
        group, self._process_group = self._process_group, None
        if group is not None:
            # This ends NCCL's work, but not gloo's; and to free a group with open work would block this process.
            with contextlib.suppress(RuntimeError):
                group.abort()
            threading.Thread(target=_release, args=([group], self._works), name="leave group", daemon=True).start()

    @contextlib.contextmanager
    def _failing_together(self, what: str) -> Iterator[None]:
        """An error inside makes all members fail; its message names this member and `what` it waited for."""
        try:
            yield
        except (RuntimeError, WeightTransferError) as error:
            self.leave(f"rank {self.rank} of {self.group.name}: {what}: {error}")
            raise WeightTransferError(self._first_reason() or f"rank {self.rank}: {what}: {error}") from error

    def _first_reason(self) -> str:
        """Why the first member abandoned the group; "" where the store no longer answers."""
        with contextlib.suppress(RuntimeError):
            return self._store.get(_ABANDONED).decode()
        return ""


def _has_ended(work: Work) -> bool:
    """Whether `work` of gloo has ended, successfully or not; waits at most `_LOOK_FOR_FAILURE_S` for it."""
    with contextlib.suppress(RuntimeError):
        work.wait(timedelta(seconds=_LOOK_FOR_FAILURE_S))
    return work.is_completed()


def _release(groups: list[ProcessGroup], works: list[Work]) -> None:
    """Frees the group when its works have ended, by their deadline at the latest."""
    while not all(work.is_completed() for work in works):
        time.sleep(_LOOK_FOR_FAILURE_S)
    groups.clear()


def _process_group(store: PrefixStore, rank: int, size: int, device: torch.device, timeout: timedelta) -> ProcessGroup:
    """A group that leaves the default group of this process alone."""
    group = ProcessGroup(store, rank, size)
    if device.type == "cuda":
        options = c10d.ProcessGroupNCCL.Options()
        options._timeout = timeout
        with _without_watchdog():
            backend: Backend = c10d.ProcessGroupNCCL(store, rank, size, options)
        kind = ProcessGroup.BackendType.NCCL
    else:
        backend, kind = ProcessGroupGloo(store, rank, size, timeout), ProcessGroup.BackendType.GLOO
    backend._set_sequence_number_for_group()
    group._set_default_backend(kind)
    group._register_backend(device, kind, backend)
    return group


@contextlib.contextmanager
def _without_watchdog() -> Iterator[None]:
    """NCCL groups that are made inside get no watchdog thread. It would end the process a minute after a broadcast
    has failed, and members notice failures and deadlines themselves.
    """
    before = os.environ.get(_BLOCKING_WAIT)
    os.environ[_BLOCKING_WAIT] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_BLOCKING_WAIT]
        else:
            os.environ[_BLOCKING_WAIT] = before
