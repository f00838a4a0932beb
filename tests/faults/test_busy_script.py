"""Fault 8: a script of somebody's runs and runs. Callers are told to come again; when it is killed, all goes on."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import grpc
import pytest
from grpc_health.v1 import health_pb2
from redis.exceptions import RedisError

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.errors import StoreUnavailableError
from drawdown_server.holds.connection import open_connection
from drawdown_server.holds.startup import open_client
from drawdown_server.rpc.health import LIVENESS
from drawdown_server.rpc.services import service_names
from integration.server import authorize_request, commit_request, run_server, settings, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from google.protobuf.message import Message
    from redis.asyncio import Redis

    from integration.server import Server

BUSY_AFTER: Final = "busy-reply-threshold 50"
"""Milliseconds after which a script is said to run too long."""
PATIENT_MS: Final = 20_000
SPIN: Final = """#!lua name=spin
redis.register_function{function_name='spin', callback=function() while true do end end, flags={'no-writes'}}
"""
SERVING: Final = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def valkey(data_dir: Path) -> AsyncIterator[ValkeyProcess]:
    """One that soon says that it is busy, with a function that never ends."""
    async with ValkeyProcess(data_dir, appendfsync="no", extra=[BUSY_AFTER]) as server:
        async with open_client(server.url, timeout_ms=PATIENT_MS) as client:
            await client.function_load(SPIN)
        yield server


async def is_busy(client: Redis) -> bool:
    try:
        await client.ping()
    except RedisError as error:
        return "BUSY" in str(error)
    return False


@asynccontextmanager
async def spinning(valkey: ValkeyProcess) -> AsyncIterator[None]:
    """The function runs inside the block, and is killed at its end."""
    async with (
        open_client(valkey.url, timeout_ms=PATIENT_MS) as caller,
        open_client(valkey.url, timeout_ms=PATIENT_MS) as killer,
    ):
        call = asyncio.create_task(caller.fcall("spin", 0))
        try:
            await until(lambda: is_busy(killer))
            yield
        finally:
            await killer.execute_command("FUNCTION", "KILL")
            await asyncio.gather(call, return_exceptions=True)


async def health(server: Server, service: str) -> int:
    reply = await server.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
    return int(reply.status)


async def says(server: Server, status: int) -> bool:
    return [await health(server, name) for name in ("", *service_names())] == [status] * (1 + len(service_names()))


async def test_a_busy_valkey_is_unavailable_and_out_of_the_load_balancer_until_the_script_is_killed(
    valkey: ValkeyProcess, postgres_url: str
) -> None:
    async with run_server(settings(valkey.url, postgres_url)) as server:
        wallet = await server.wallet(USD=100)
        await server.authorize(wallet, "h", USD=10)
        requests: list[Message] = [
            authorize_request(wallet, "new", USD=1),
            commit_request(wallet, "h", USD=7),
            pb.ReleaseRequest(wallet_id=wallet, hold_id="h"),
        ]
        await until(lambda: says(server, SERVING))
        async with spinning(valkey):
            for request in requests:
                failure = await server.failure(request)
                assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
                assert (failure.metadata, failure.retry_ms) == ({"store": "valkey"}, 50)
            await until(lambda: says(server, NOT_SERVING))
            assert await health(server, LIVENESS) == SERVING
        await until(lambda: says(server, SERVING))
        assert (await server.call(requests[1])).debited[0].units == 7, "the refused one had no effect"
        assert not server.task.done()
        await server.assert_conserved(wallet)


async def test_a_script_that_was_killed_had_no_effect_and_may_be_sent_again(valkey: ValkeyProcess) -> None:
    async with (
        open_client(valkey.url, timeout_ms=PATIENT_MS) as killer,
        open_connection(valkey.url, timeout_ms=PATIENT_MS, in_flight_max=10) as connection,
    ):
        call = asyncio.create_task(connection.call("FCALL", "spin", 0))
        behind = asyncio.create_task(connection.call("ECHO", "behind"))
        await until(lambda: is_busy(killer))
        await killer.execute_command("FUNCTION", "KILL")
        with pytest.raises(StoreUnavailableError, match="cannot take this call now"):
            await call
        assert await behind == b"behind"


async def test_without_valkey_the_health_service_says_so(valkey: ValkeyProcess, postgres_url: str) -> None:
    async with run_server(settings(valkey.url, postgres_url, valkey_timeout_ms=500)) as server:
        await until(lambda: says(server, SERVING))
        await asyncio.to_thread(valkey.stop)
        try:
            await until(lambda: says(server, NOT_SERVING))
            assert await health(server, LIVENESS) == SERVING
        finally:
            await asyncio.to_thread(valkey.start)
        await until(lambda: says(server, SERVING))
