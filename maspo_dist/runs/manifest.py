"""The manifest of a finished folder: its files with sizes and SHA-256, and a checksum of that list.

`manifest.json` is written last, when every file is on disk; a folder without it was never finished.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

_MANIFEST = "manifest.json"
_FORMAT = 1
_CHUNK_BYTES = 1 << 22


def write_manifest(folder: Path) -> None:
    """Flushes every file of `folder` to disk, then writes the manifest. Raises OSError when the disk does."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        files[str(path.relative_to(folder))] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        sync(path)
    manifest = {"format": _FORMAT, "sha256": _sha256_of_list(files), "files": files}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    sync(folder / _MANIFEST)
    for inner in (*(path for path in folder.rglob("*") if path.is_dir()), folder):
        sync(inner)


def damage_of(path: Path) -> str | None:
    """What is wrong with a finished folder, or None.

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
            if _sha256(file) != expected["sha256"]:
                return f"{name} does not match its checksum"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{_MANIFEST} cannot be read"
    return None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _sha256_of_list(files: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def sync(path: Path) -> None:
    """fsync of a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        # Drop the cached pages where the system allows it, so that reading back reads the disk.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
