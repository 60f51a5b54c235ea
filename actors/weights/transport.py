"""The weight transports by their names in `sync.transport`."""

from __future__ import annotations

from actors.interfaces import WeightTransport
from maspo_dist.config.extension import load_class

_OBJECT_STORE = "python:actors.weights.object_store:ObjectStoreTransport"
#: Broadcasts and IPC have no class here, see `actors.weights.collective` and `actors.weights.ipc`; engines that come
#: later use the object store.
_TRANSPORTS = dict.fromkeys(("auto", "object_store", "collective", "ipc"), _OBJECT_STORE)


#: Transports that leave weights where every process of the node can map them.
SHARED_ON_A_NODE = frozenset(_TRANSPORTS)


def weight_transport(name: str) -> type[WeightTransport]:
    """The class of `name`. Raises ConfigError when it cannot be imported or lacks a method of WeightTransport."""
    return load_class(_TRANSPORTS.get(name, name), "sync.transport", WeightTransport)
