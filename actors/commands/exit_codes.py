"""What a command prints for an error, and its exit code."""

from __future__ import annotations

import sys

from maspo_dist.errors import MaspoError, UserError
from maspo_dist.planning.remedies import REMEDIES


def explain(error: MaspoError | OSError) -> int:
    """Prints an expected failure as one line and returns its exit code: 2 for a user's mistake, else 1.

    Raises `error` if it is an OSError without a known remedy, which is a bug.
    """
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
        return 2
    if isinstance(error, MaspoError):
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    if error.errno not in REMEDIES:
        raise error
    where = f" ({error.filename})" if error.filename else ""
    print(f"error: {error.strerror}{where}: {REMEDIES[error.errno]}", file=sys.stderr)
    return 1
