"""Checkpoints: complete or absent, recognised when damaged.

    checkpoints/.part-000040/   being written: learner/, state.json, finished_groups.pickle
                 │ every file fsynced, manifest.json (sizes, SHA-256) written last
                 ▼ renamed
    checkpoints/step-000040/

Older ones go only after the new one is in place.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maspo_dist.data.cursor import CursorState
from maspo_dist.data.selection import DropReason
from maspo_dist.errors import ConfigError
from maspo_dist.types import RolloutGroup, ScoredGroup

_MANIFEST = "manifest.json"
_STATE = "state.json"
_FINISHED = "finished_groups.pickle"
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingGroup:
    """A group that was admitted and not yet consumed; its prompt is the one at `drawn_at`."""

    group_id: int
    drawn_at: CursorState
    refilled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedGroup:
    """A pending group that was sampled and scored; `dropped` says why it will not train, if so."""

    scored: ScoredGroup
    body: RolloutGroup
    dropped: DropReason | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """The generation side: the next group to admit, where its prompt is drawn, and what was admitted before.

    Pending groups without a result are sampled again under the same number and seed.
    """

    next_group: int
    cursor: CursorState
    pending: tuple[PendingGroup, ...] = ()
    refills: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Where a run stood after `step`."""

    step: int
    policy_version: int
    stream: StreamState


class CheckpointStore:
    """The checkpoints of one run folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, step: int) -> Path:
        """An empty folder to write the learner's state into."""
        part = self._folder / f".part-{step:06d}"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        return part

    def commit(self, part: Path, state: RunState, finished: Sequence[FinishedGroup], keep: int) -> Path:
        """Completes what `begin` started, then removes all but the newest `keep`. Raises OSError when the disk does."""
        (part / _STATE).write_text(json.dumps(asdict(state)), encoding="utf-8")
        (part / _FINISHED).write_bytes(pickle.dumps(tuple(finished), protocol=pickle.HIGHEST_PROTOCOL))
        manifest = {
            str(path.relative_to(part)): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
            for path in _files(part)
        }
        for path in _files(part):
            _sync(path)
        (part / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        _sync(part / _MANIFEST)
        final = self._folder / f"step-{state.step:06d}"
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
        _sync(self._folder)
        for _, old in self._steps()[keep:]:
            shutil.rmtree(old)
        return final

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest good checkpoint, and why newer ones were passed over."""
        passed_over: list[str] = []
        for _, path in self._steps():
            damage = damage_of(path)
            if damage is None:
                return path, passed_over
            passed_over.append(f"{path.name}: {damage}")
        return None, passed_over

    def _steps(self) -> list[tuple[int, Path]]:
        """Finished checkpoints, newest first."""
        found = [
            (int(match.group(1)), path)
            for path in (self._folder.iterdir() if self._folder.is_dir() else ())
            if (match := re.fullmatch(r"step-(\d{6,})", path.name))
        ]
        return sorted(found, reverse=True)


def damage_of(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None: every file of the manifest must have its size and SHA-256."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        for name, expected in manifest.items():
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


def read_state(path: Path) -> RunState:
    """The controller's state in a good checkpoint. Raises ConfigError where it cannot be read."""
    try:
        fields = json.loads((path / _STATE).read_text(encoding="utf-8"))
        return RunState(**{**fields, "stream": _stream_state(fields["stream"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"checkpoint {path} cannot be read: {error}") from None


def read_finished(path: Path) -> tuple[FinishedGroup, ...]:
    """The finished groups in a good checkpoint. Raises ConfigError where they cannot be read."""
    try:
        groups: tuple[FinishedGroup, ...] = pickle.loads((path / _FINISHED).read_bytes())
    except (OSError, ValueError, TypeError, AttributeError, ImportError, pickle.UnpicklingError) as error:
        raise ConfigError(f"checkpoint {path} cannot be read: {error}") from None
    return groups


def _stream_state(fields: dict[str, Any]) -> StreamState:
    pending = tuple(
        PendingGroup(**{**group, "drawn_at": CursorState(**group["drawn_at"])}) for group in fields["pending"]
    )
    return StreamState(**{**fields, "cursor": CursorState(**fields["cursor"]), "pending": pending})


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
