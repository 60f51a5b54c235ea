"""`no_ray_at` answers at once, whatever listens at the address; other tests call it on real clusters."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from actors.ray.connection import no_ray_at

SETTINGS = bytes(3) + b"\x04" + bytes(5)


@contextmanager
def listening(says: bytes) -> Iterator[str]:
    """The address of a server that says `says` to every client, and then only listens; nothing accepts if empty."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    clients.enter_context(connection)
                    with suppress(ConnectionError):
                        connection.sendall(says)

        with ExitStack() as clients:
            thread = threading.Thread(target=serve)
            if says:
                thread.start()
            yield f"127.0.0.1:{server.getsockname()[1]}"
            server.shutdown(socket.SHUT_RDWR)
            if says:
                thread.join()


def test_a_grpc_server_may_be_ray() -> None:
    with listening(SETTINGS) as address:
        assert no_ray_at(address, 10) is None


def test_another_server_is_not_ray() -> None:
    with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        assert no_ray_at(address, 10) == "what listens there is not Ray"


def test_a_silent_server_times_out() -> None:
    with listening(b"") as address:
        assert no_ray_at(address, 0.2) == "timed out"


def test_with_tls_any_listening_server_may_be_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with listening(b"") as address:
        assert no_ray_at(address, 0.05) is None


@pytest.mark.parametrize("address", ["auto", "ray://head:10001", "local"])
def test_an_address_of_another_form_is_left_to_ray(address: str) -> None:
    assert no_ray_at(address) is None
