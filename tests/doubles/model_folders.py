"""Whether a node has the model, as tests of several nodes on one machine need it."""

from __future__ import annotations

import os


def missing_on_lost_node(path: str) -> str | None:
    """The node that a test marked as lost has no model."""
    return f"model.path {path} does not exist" if "MASPO_TEST_NODE" in os.environ else None
