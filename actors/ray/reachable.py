"""Whether a Ray cluster answers at an address, told in seconds: Ray itself tries for many minutes, deaf to signals."""

from __future__ import annotations

import os
import socket

_ANSWER_S = 5.0
#: What a client of HTTP/2, which gRPC speaks, says first; a server's first frame is one of SETTINGS (RFC 9113, 3.4).
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
_FRAME_HEADER_BYTES = 9
_SETTINGS = 4


def no_ray_at(address: str, answer_s: float = _ANSWER_S) -> str | None:
    """Why no Ray cluster can be at `address`, judged by what answers there within `answer_s` seconds; None if it may.

    Addresses of another form than host:port are left to Ray. Where Ray is told to use TLS, something must listen.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        return None
    try:
        with socket.create_connection((host, int(port)), timeout=answer_s) as connection:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return None
            connection.sendall(_HELLO)
            header = connection.recv(_FRAME_HEADER_BYTES, socket.MSG_WAITALL)
    except OSError as error:
        return error.strerror or str(error)
    return None if header[3:4] == bytes([_SETTINGS]) else "what listens there is not Ray"
