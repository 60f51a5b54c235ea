"""Checks within seconds whether Ray may be at an address; `ray.init` would block for minutes and ignore signals."""

from __future__ import annotations

import os
import socket
from queue import Empty, SimpleQueue

import grpc

_ANSWER_S = 5.0
_FINAL = (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE)


def no_ray_at(address: str, answer_s: float = _ANSWER_S) -> str | None:
    """Why no Ray cluster can be at `address`: no gRPC server answers there within `answer_s` seconds. None if one does.

    Also None for an address that is not host:port, and, where Ray uses TLS, for any server that listens.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        return None
    try:
        # gRPC does not say why it cannot connect.
        socket.create_connection((host, int(port)), timeout=answer_s).close()
    except OSError as error:
        return error.strerror or str(error)
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return None
    states: SimpleQueue[grpc.ChannelConnectivity] = SimpleQueue()
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        channel.subscribe(states.put, try_to_connect=True)
        try:
            while (state := states.get(timeout=answer_s)) not in _FINAL:
                pass
        except Empty:
            return "timed out"
    return None if state is grpc.ChannelConnectivity.READY else "what listens there is not Ray"
