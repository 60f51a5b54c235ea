"""What a user can do about failures of the machine; `train` says it when one happens, `doctor` before."""

from __future__ import annotations

import errno

SHORTER_RAY_FOLDER = "set RAY_TMPDIR to a shorter folder, such as /tmp"
_FREE_SPACE = "free space there, or set run.dir or TMPDIR to another disk"

#: By error number.
REMEDIES = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EROFS: "set run.dir or TMPDIR to a folder that can be written",
    errno.EMFILE: "raise the limit on open files, such as `ulimit -n 65536`",
    errno.ENFILE: "close other programs, or raise the system's limit on open files (fs.file-max)",
}
