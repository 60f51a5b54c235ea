"""Records in a file: a pickle behind the number of the records' shape.

A slotted record whose class has got a field since lacks that field, which shows only where it is read. So a file of
another shape is not read at all.
"""

import pickle
import zlib
from dataclasses import fields
from typing import Any

from maspo_dist.types import (
    FinishedGroup,
    GroupReport,
    Prompt,
    Rollout,
    RolloutGroup,
    SampleRef,
    ScoredGroup,
    TrainingBatch,
    Verdict,
)

_KINDS: tuple[Any, ...] = (
    Prompt,
    Rollout,
    RolloutGroup,
    Verdict,
    GroupReport,
    ScoredGroup,
    FinishedGroup,
    SampleRef,
    TrainingBatch,
)
_NAME = b"maspo_dist records of shape "


def _shape(kinds: tuple[Any, ...]) -> int:
    """Changes with the names of the fields."""
    return zlib.crc32(repr([(kind.__name__, [field.name for field in fields(kind)]) for kind in kinds]).encode())


class RecordShapeError(ValueError):
    """Records that another version wrote; the message is a part of a sentence."""


def dump_records(records: object, *own: type) -> bytes:
    """`records`, which may hold any record of `maspo_dist.types`, and records of the classes `own`."""
    return _NAME + b"%d\n" % _shape((*_KINDS, *own)) + pickle.dumps(records, protocol=pickle.HIGHEST_PROTOCOL)


def load_records(content: bytes, *own: type) -> Any:
    """What `dump_records` was given. Raises RecordShapeError, before anything is read, for another shape."""
    expected = _shape((*_KINDS, *own))
    head, _, body = content.partition(b"\n")
    found = int(head.removeprefix(_NAME)) if head.startswith(_NAME) and head[len(_NAME) :].isdigit() else None
    if found != expected:
        raise RecordShapeError(f"its records have shape {found or 'none'}, this version reads shape {expected}")
    return pickle.loads(body)
