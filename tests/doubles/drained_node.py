"""A node that is drained, as before a pre-emption; quick to import, since actors call it too."""

from __future__ import annotations

import time

from ray._raylet import GcsClient
from ray.core.generated import autoscaler_pb2


def drain_node(gcs_address: str, node_id: str, seconds: float) -> None:
    """Tells the cluster that the node leaves in `seconds`."""
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why_not = GcsClient(address=gcs_address).drain_node(
        node_id, reason, "", int((time.time() + seconds) * 1000)
    )
    assert accepted, why_not
