"""Ray's authentication token, for processes that join a cluster by its address.

Every cluster that Ray starts requires a token. A process that joins by address must select token authentication
in its environment before it imports Ray.
"""

from __future__ import annotations

import os
from pathlib import Path

_MODE = "RAY_AUTH_MODE"
#: The variables that hold the token, and the path of its file.
TOKEN, _TOKEN_PATH = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def token_path() -> Path:
    """The file in which Ray looks for this user's token, unless RAY_AUTH_TOKEN holds the token itself."""
    return Path(os.environ.get(_TOKEN_PATH) or Path.home() / ".ray" / "auth_token")


def has_token() -> bool:
    """Whether this user has a token."""
    return TOKEN in os.environ or _TOKEN_PATH in os.environ or token_path().is_file()


def present_token() -> None:
    """Selects token authentication if this user has a token, unless a mode is set. Call before importing Ray."""
    if _MODE not in os.environ and has_token():
        os.environ[_MODE] = "token"
