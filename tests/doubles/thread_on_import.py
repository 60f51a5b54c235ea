"""A module of a user that starts a thread when it is imported."""

from __future__ import annotations

import threading
import time

from doubles.own_environments import HigherLower

__all__ = ["HigherLower"]

threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
