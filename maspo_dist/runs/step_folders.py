"""Numbered folders that are complete or absent; a damaged folder is recognised.

.part-000040/   being written
    │ every file fsynced, then manifest.json: sizes and SHA-256 of the files, and a checksum of that list
    ▼ renamed, read back, compared with the manifest
step-000040/
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

_MANIFEST = "manifest.json"
_FORMAT = 1
#: Bytes read at once; a slow disk needs a while for more.
_BLOCK_BYTES = 1 << 22


class StepFolders:
    """The folders of one parent, by step. One process writes; its threads may."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: When `finish` last read a block or flushed a file, by time.monotonic(), so also an event loop time.
        self.last_progress_s = 0.0

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

    def finish(self, part: Path, step: int, files: Mapping[str, bytes]) -> Path:
        """Writes `files` into `part`, renames it and reads it back; an undamaged folder of the same step stays.

        Raises OSError when the disk does, or when the folder cannot be read back; the new folder is then removed.
        """
        final = self.path(step)
        try:
            for name, content in files.items():
                (part / name).write_bytes(content)
            write_manifest(part, self._progress)
            if final.exists() and damage_of(final) is None:
                # While one folder replaces the other, there would be neither.
                shutil.rmtree(part)
                return final
            shutil.rmtree(final, ignore_errors=True)
            part.rename(final)
            sync(self.folder)
            if (damage := damage_of(final, self._progress)) is not None:
                shutil.rmtree(final)
                raise OSError(f"{final} was written but cannot be read back: {damage}")
        except OSError:
            shutil.rmtree(part, ignore_errors=True)
            raise
        return final

    def _progress(self) -> None:
        self.last_progress_s = time.monotonic()


def _untold() -> None: ...


def write_manifest(folder: Path, on_progress: Callable[[], None] = _untold) -> None:
    """Flushes every file of `folder` to disk, then writes the manifest. Raises OSError when the disk does.

    Calls `on_progress` for each block that is read, and for each file that is flushed.
    """
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        files[str(path.relative_to(folder))] = {"bytes": path.stat().st_size, "sha256": _sha256(path, on_progress)}
        sync(path)
        on_progress()
    manifest = {"format": _FORMAT, "sha256": _sha256_of_list(files), "files": files}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    sync(folder / _MANIFEST)
    for inner in (*(path for path in folder.rglob("*") if path.is_dir()), folder):
        sync(inner)


def damage_of(path: Path, on_progress: Callable[[], None] = _untold) -> str | None:
    """The damage of a finished folder, or None. Calls `on_progress` for each block that is read.

    Every file must have the size and SHA-256 of the manifest, and the manifest's list its own checksum.
    """
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
        if manifest["format"] != _FORMAT or manifest["sha256"] != _sha256_of_list(files):
            return f"{_MANIFEST} does not match its checksum"
        for name, expected in files.items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != expected["bytes"]:
                return f"{name} has {file.stat().st_size} bytes instead of {expected['bytes']}"
            if _sha256(file, on_progress) != expected["sha256"]:
                return f"{name} does not match its checksum"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{_MANIFEST} cannot be read"
    return None


def sync(path: Path) -> None:
    """fsync of a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        # Drop the cached pages where the system allows it, so that reading back reads the disk.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _sha256(path: Path, on_progress: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            on_progress()
    return digest.hexdigest()


def _sha256_of_list(files: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
