"""The port that workers share: theirs before and between them, and nobody else's."""

from __future__ import annotations

import socket

import pytest

from drawdown_server.dev.process import free_port
from drawdown_server.errors import ConfigurationError
from drawdown_server.workers.port import reserved_port


def listening(port: int, *, shares: bool) -> socket.socket:
    found = socket.socket()
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shares)
        found.bind(("127.0.0.1", port))
        found.listen()
    except BaseException:
        found.close()
        raise
    return found


def speaks_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as found:
            found.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_workers_listen_on_a_reserved_port_and_the_reservation_gets_no_connection() -> None:
    with (
        reserved_port("127.0.0.1", 0, "grpc_port") as port,
        listening(port, shares=True) as first,
        listening(port, shares=True) as second,
    ):
        clients = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(20)]
        served = 0
        for listener in (first, second):
            listener.settimeout(0)
            while True:
                try:
                    listener.accept()[0].close()
                except BlockingIOError:
                    break
                served += 1
        for client in clients:
            client.close()
    assert served == 20


def test_nobody_else_gets_a_reserved_port_and_afterwards_anybody_does() -> None:
    with reserved_port("127.0.0.1", 0, "grpc_port") as port, pytest.raises(OSError):
        listening(port, shares=False)
    listening(port, shares=False).close()


@pytest.mark.parametrize("shares", [True, False])
def test_a_port_that_somebody_listens_on_is_refused_also_if_they_share_it(shares: bool) -> None:
    port = free_port()
    with (
        listening(port, shares=shares),
        pytest.raises(ConfigurationError, match=rf"127\.0\.0\.1:{port}: .*--grpc-certificate-port"),
        reserved_port("127.0.0.1", port, "grpc_certificate_port"),
    ):
        pass


@pytest.mark.parametrize("host", ["localhost", "[::1]", "0.0.0.0", "[::]"])  # noqa: S104
def test_a_host_may_be_a_name_or_any_address(host: str) -> None:
    if ":" in host and not speaks_ipv6():
        pytest.skip("this machine has no IPv6")
    with reserved_port(host, 0, "grpc_port") as port:
        assert port > 0


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not ours"), reserved_port("192.0.2.1", 0, "grpc_port"):
        pass
