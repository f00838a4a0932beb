"""A server that takes no more connections and goes on with those that it has."""

from __future__ import annotations

import socket
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from drawdown_server.rpc.draining import stop_listening
from drawdown_server.rpc.health import Health
from drawdown_server.rpc.transport import server_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def serving() -> AsyncIterator[list[int]]:
    """A server that listens on two ports, which are yielded."""
    server = grpc.aio.server(options=server_options(connections_max=10, connection_age_s=0, shares_ports=True))
    health = Health(["drawdown"])
    health.add_to(server)
    found = [server.add_insecure_port("127.0.0.1:0") for _ in range(2)]
    await server.start()
    await health.tell(None)
    try:
        yield found
    finally:
        await server.stop(5)


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="connections are spread over sockets on Linux only")
async def test_new_connections_are_refused_and_those_that_stand_go_on() -> None:
    async with serving() as (closed, other), grpc.aio.insecure_channel(f"127.0.0.1:{closed}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)).status == 1
        stop_listening({closed, None})
        assert is_refused(closed)
        assert not is_refused(other)
        assert (await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)).status == 1
        stop_listening({closed, other})  # the first is not there any more
        assert is_refused(other)
