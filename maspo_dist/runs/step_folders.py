"""Numbered folders that are complete or absent, and damaged ones recognised.

.part-000040/   being written
    │ every file fsynced, manifest.json (sizes, SHA-256) written last
    ▼ renamed, read back, compared with the manifest
step-000040/
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from maspo_dist.runs.manifest import damage_of, sync, write_manifest


class StepFolders:
    """The folders of one parent, by step. One process writes; its threads may."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def steps(self) -> list[int]:
        """Steps of the finished folders, oldest first; the folders may be damaged."""
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"step-(\d{6,})", name)))

    def begin(self, step: int) -> Path:
        """An empty folder to write into. Unfinished folders of earlier calls are removed."""
        self.remove_unfinished()
        part = self.folder / f".part-{step:06d}"
        part.mkdir(parents=True)
        return part

    def remove_unfinished(self) -> None:
        for leftover in self.folder.glob(".part-*"):
            shutil.rmtree(leftover)

    def finish(self, part: Path, step: int) -> Path:
        """Completes what `begin` started and proves it; an undamaged folder of the same step stays as it is.

        Raises OSError when the disk does, or when the folder cannot be read back; the new folder is then removed.
        """
        final = self.path(step)
        try:
            write_manifest(part)
            if final.exists() and damage_of(final) is None:
                # Replacing it would leave a moment with neither.
                shutil.rmtree(part)
                return final
            shutil.rmtree(final, ignore_errors=True)
            part.rename(final)
            sync(self.folder)
            if (damage := damage_of(final)) is not None:
                shutil.rmtree(final)
                raise OSError(f"{final} was written but cannot be read back: {damage}")
        except OSError:
            shutil.rmtree(part, ignore_errors=True)
            raise
        return final
