"""Files that ranks write between collectives.

A rank that raises while the others wait for it in a collective would hang them. Hence a failed write is noted, and all
ranks raise it together.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


class SharedWrites:
    """The writes of this rank until all ranks `agree`; after a failure it writes nothing more."""

    def __init__(self) -> None:
        self._error: str | None = None

    def take_over(self, engine: Any) -> None:
        """Makes DeepSpeed's `engine` save its checkpoint files, and no others, through `write`."""
        engine.checkpoint_engine.save = self.write
        # Scripts beside the checkpoint, in whose place `maspo-dist export` stands.
        engine._copy_recovery_script = lambda save_path: None

    def write(self, state_dict: Any, path: str | Path) -> None:
        """torch.save, with the argument names that DeepSpeed uses."""
        self.run(Path(path), lambda: torch.save(state_dict, path))

    def run(self, path: Path, write: Callable[[], object]) -> None:
        """Calls `write`, which writes `path`."""
        if self._error is not None:
            return
        try:
            write()
        except (OSError, RuntimeError) as error:
            # On a full disk torch raises a RuntimeError about positions in a zip file.
            free_mb = shutil.disk_usage(_existing(path)).free >> 20
            self._error = f"{path} could not be written ({free_mb} MB are free there): {error}".partition("\n")[0]

    def agree(self) -> None:
        """Collective. Raises OSError on every rank, with the failure of the lowest rank that failed."""
        errors: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(errors, self._error)
        self._error = None
        failed = [f"learner rank {rank}: {error}" for rank, error in enumerate(errors) if error is not None]
        if failed:
            raise OSError(failed[0])


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())
