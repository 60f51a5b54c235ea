"""What a command prints for an error, and its exit code."""

from __future__ import annotations

import errno
import sys

from maspo_dist.errors import MaspoError, UserError
from maspo_dist.planning.remedies import REMEDIES

_PERMISSION = "ask its owner for permission, or name another path"
#: What to do about a path that cannot be used as it is, by error number.
_PATH_REMEDIES = {
    errno.ENOENT: "name a path that exists",
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.ENOTDIR: "a part of this path is a file: name another path",
    errno.EISDIR: "this path is a folder: name a file",
    errno.ENAMETOOLONG: "name a shorter path",
}


def explain(error: MaspoError | OSError) -> int:
    """Prints an expected failure as one line and returns its exit code: 2 for a user's mistake, else 1.

    An OSError that has no known remedy is a bug, and is raised again. So is one whose remedy is another path, if it
    does not name its path.
    """
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
        return 2
    if isinstance(error, MaspoError):
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    remedies = REMEDIES | _PATH_REMEDIES if error.filename else REMEDIES
    if error.errno not in remedies:
        raise error
    where = f" ({error.filename})" if error.filename else ""
    print(f"error: {error.strerror}{where}: {remedies[error.errno]}", file=sys.stderr)
    return 1
