"""The bound on the memory of a trajectory's process, and how it shows."""

from __future__ import annotations

import errno
import resource
from pathlib import Path

_PAGE_BYTES = resource.getpagesize()


def memory_limit(memory_mb: int) -> int:
    """The address space in bytes of a fork of this process that may grow by `memory_mb`."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * _PAGE_BYTES + (memory_mb << 20)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the address space is full. A new thread needs 8 MiB of it and more."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "start new thread" in str(error))
