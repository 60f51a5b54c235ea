"""Ray's authentication token, for processes that join a cluster by its address.

Every cluster that Ray starts requires a token. A process that joins by address must select token authentication
in its environment before it imports Ray.
"""

from __future__ import annotations

import os
from pathlib import Path

_MODE = "RAY_AUTH_MODE"
_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def present_token() -> None:
    """Selects token authentication if this user has a token, unless a mode is set. Call before importing Ray."""
    has_token = any(name in os.environ for name in _TOKENS) or (Path.home() / ".ray" / "auth_token").is_file()
    if _MODE not in os.environ and has_token:
        os.environ[_MODE] = "token"
