"""The weight transports by their names in `sync.transport`."""

from __future__ import annotations

from actors.interfaces import WeightTransport
from maspo_dist.config.extension import load_class

_OBJECT_STORE = "python:actors.weights.object_store:ObjectStoreTransport"
_TRANSPORTS = {
    "auto": _OBJECT_STORE,
    "object_store": _OBJECT_STORE,
    # Broadcasts and IPC have no class here, see `actors.weights.collective` and `actors.weights.ipc`. Engines that
    # start later get their weights through the object store.
    "collective": _OBJECT_STORE,
    "ipc": _OBJECT_STORE,
}

#: Transports that leave weights where every process of the node can map them.
SHARED_ON_A_NODE = frozenset({"auto", "object_store", "collective", "ipc"})


def weight_transport(name: str) -> type[WeightTransport]:
    """The class of `name`. Raises ConfigError when it cannot be imported or lacks a method of WeightTransport."""
    return load_class(_TRANSPORTS.get(name, name), "sync.transport", WeightTransport)
