"""Whether Ray may be at an address is told at once, whatever listens there; real clusters answer in other tests."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from actors.ray.reachable import no_ray_at

SETTINGS = bytes(3) + b"\x04" + bytes(5)


@contextmanager
def listening(says: bytes) -> Iterator[str]:
    """The address of a server that says this to its first caller, and no more; nothing to none."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, suppress(ConnectionResetError):
                connection.sendall(says)
                while connection.recv(1024):
                    pass

        thread = threading.Thread(target=serve)
        if says:
            thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        if says:
            thread.join()


def test_a_server_of_grpc_may_be_ray() -> None:
    with listening(SETTINGS) as address:
        assert no_ray_at(address, 10) is None


def test_another_server_is_not_ray() -> None:
    with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        assert no_ray_at(address, 10) == "what listens there is not Ray"


def test_a_server_that_says_nothing_is_not_waited_for() -> None:
    with listening(b"") as address:
        assert no_ray_at(address, 0.05) == "timed out"


def test_where_ray_speaks_tls_to_listen_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with listening(b"") as address:
        assert no_ray_at(address, 0.05) is None


@pytest.mark.parametrize("address", ["auto", "ray://head:10001", "local"])
def test_an_address_of_another_form_is_left_to_ray(address: str) -> None:
    assert no_ray_at(address) is None
