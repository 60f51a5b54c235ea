"""A folder that one process writes at a time."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import BinaryIO

from maspo_dist.errors import ConfigError


def lock_folder(folder: Path, complaint: str) -> BinaryIO:
    """An open file in `folder` that this process alone holds; closing it gives the folder back.

    Raises ConfigError with `complaint` if another process holds it, OSError if the file cannot be made.
    """
    file = (folder / ".lock").open("ab")
    try:
        # A record lock, not flock: children forked while it is held do not keep it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.close()
        raise ConfigError(complaint) from None
    except OSError:
        # Some network file systems have no locks; work there goes without.
        return file
    return file
