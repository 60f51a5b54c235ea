"""Ray's token, for processes that join a cluster by its address.

Ray turns token authentication on for every cluster that it starts, and expects whoever joins one by address
to ask for it in the environment, before Ray is imported.
"""

from __future__ import annotations

import os
from pathlib import Path

_MODE = "RAY_AUTH_MODE"
_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def present_token() -> None:
    """Sets the mode where it is not set and this user has a token. Call it before Ray is imported."""
    has_token = any(name in os.environ for name in _TOKENS) or (Path.home() / ".ray" / "auth_token").is_file()
    if _MODE not in os.environ and has_token:
        os.environ[_MODE] = "token"
