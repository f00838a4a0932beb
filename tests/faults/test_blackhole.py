"""Faults 7, 23 and 24: Valkey is frozen, the line to it goes dead, or it is slow while callers send again and again."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Final

import grpc
import pytest

from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.holds.connection import open_connection
from faults.gateway import Gateway
from faults.tcp_proxy import TcpProxy
from integration.audit import open_audit
from integration.server import Rpc, authorize_request, commit_request, open_channel, run_server, settings, until

if TYPE_CHECKING:
    from pathlib import Path

    from drawdown_server.config import Config
    from faults.tcp_proxy import Way

TIMEOUT_MS: Final = 300
FAST_FAILURES: Final = 30
ROOM: Final = 8
RESERVED: Final = 2
STORM: Final = 3 * ROOM
COMMITS: Final = 60
IMPATIENT_S: Final = 0.05
"""The shortest deadline of the storm; the other callers have longer ones, so that some are served on any machine."""


async def is_unavailable(rpc: Rpc, wallet: str, hold_id: str) -> bool:
    """Whether a call is refused; it has all the time it wants."""
    try:
        await rpc.authorize(wallet, hold_id, USD=1)
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE, error
        return True
    return False


async def test_a_frozen_valkey_fails_calls_at_once_and_nothing_happens_twice(data_dir: Path, postgres_url: str) -> None:
    """Its deadline is not what ends a call: after the first ones have waited, it is known not to answer."""
    async with ValkeyProcess(data_dir, appendfsync="always") as valkey:
        config = settings(valkey.url, postgres_url, valkey_timeout_ms=TIMEOUT_MS)
        async with run_server(config) as server, open_channel(server.port) as channel:
            gateway = Gateway(server, [await server.wallet(USD=1_000_000) for _ in range(3)])
            other = await server.wallet(USD=1_000)
            await server.authorize(other, "short", USD=5)
            load = asyncio.create_task(gateway.run())
            await gateway.reaches(40)
            os.kill(valkey.pid, signal.SIGSTOP)
            try:
                failure = await server.failure(commit_request(other, "short", USD=5), deadline_s=TIMEOUT_MS / 3000)
                assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED, "it may end before the store counts as down"
                # A second connection to the same server: what one gateway waits for does not hold up another.
                for number in range(FAST_FAILURES):
                    assert await is_unavailable(Rpc(channel), other, f"f{number}")
            finally:
                os.kill(valkey.pid, signal.SIGCONT)
            await gateway.reaches(40)
            gateway.stop.set()
            await load
            assert gateway.retries > 0
            assert (await server.commit(other, "short", USD=5)).wallet_sequence == 2
            async with open_audit(config) as audit:
                await gateway.assert_recorded(audit)
                await audit.assert_conserved(other)
                assert [entry.units for entry in await audit.entries(other) if entry.hold_id] == [5]


@pytest.mark.parametrize("ways", [(), ("requests",), ("replies",)], ids=["both", "requests", "replies"])
async def test_a_line_that_goes_dead_is_noticed_and_one_call_stays_one(
    config: Config, valkey_url: str, ways: tuple[Way, ...]
) -> None:
    port = int(valkey_url.rpartition(":")[2].partition("/")[0])
    async with TcpProxy(port) as proxy:
        dead = config.model_copy(update={"valkey_url": proxy.url, "valkey_timeout_ms": TIMEOUT_MS})
        async with run_server(dead) as server:
            wallet = await server.wallet(USD=100)
            proxy.stall(*ways)
            failure = await server.failure(authorize_request(wallet, "h", USD=10))
            assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
            before = proxy.accepted
            proxy.resume()

            async def authorized() -> bool:
                return not await is_unavailable(server, wallet, "other")

            await until(authorized)
            assert proxy.accepted >= before, "on a new connection"
            await server.authorize(wallet, "h", USD=10)
            assert (await server.balance(wallet)).held_units == 11
            async with open_audit(config) as audit:
                await audit.assert_conserved(wallet)


async def test_calls_that_settle_have_room_of_their_own(valkey_url: str) -> None:
    port = int(valkey_url.rpartition(":")[2].partition("/")[0])
    async with (
        TcpProxy(port) as proxy,
        open_connection(proxy.url, timeout_ms=10_000, in_flight_max=ROOM) as connection,
    ):
        proxy.stall()

        async def in_flight(count: int) -> bool:
            return connection.in_flight == count

        storm = [asyncio.create_task(connection.call("ECHO", f"new {n}")) for n in range(STORM)]
        await until(lambda: in_flight(ROOM))
        commits = [asyncio.create_task(connection.call("ECHO", f"c{n}", settles=True)) for n in range(RESERVED + 1)]
        await until(lambda: in_flight(ROOM + RESERVED))
        for call in storm:
            call.cancel()
        proxy.resume()
        assert await asyncio.gather(*commits) == [f"c{n}".encode() for n in range(RESERVED + 1)]
        await asyncio.gather(*storm, return_exceptions=True)
        await until(lambda: in_flight(0))
        assert connection.abandoned.counts == {("ECHO", "OK"): ROOM}, "those that waited were not sent"


async def test_in_a_storm_of_retries_every_commit_succeeds_at_its_first_try(config: Config, valkey_url: str) -> None:
    """The store is slow, and gateways ask for three times as many holds as there is room, again and again."""
    port = int(valkey_url.rpartition(":")[2].partition("/")[0])
    async with TcpProxy(port) as proxy:
        small = config.model_copy(update={"valkey_url": proxy.url, "valkey_in_flight_max": ROOM})
        async with run_server(small) as server:
            wallet, stormy = await server.wallet(USD=10_000), await server.wallet(USD=1_000_000)
            for number in range(COMMITS):
                await server.authorize(wallet, f"h{number}", ttl_s=600, USD=10)
            proxy.latency_s = 0.02
            stop = asyncio.Event()
            outcomes: dict[str, int] = {"approved": 0, "given up": 0}

            async def ask(worker: int) -> None:
                number = 0
                while not stop.is_set():
                    number += 1
                    request = authorize_request(stormy, f"w{worker}-{number}", ttl_s=600, USD=1)
                    try:
                        await server.call(request, deadline_s=IMPATIENT_S * (1 + worker))
                        outcomes["approved"] += 1
                    except grpc.aio.AioRpcError as error:
                        assert error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
                        outcomes["given up"] += 1

            storm = [asyncio.create_task(ask(worker)) for worker in range(STORM)]

            async def rages() -> bool:
                return outcomes["given up"] > STORM and outcomes["approved"] > 0

            await until(rages)
            for number in range(COMMITS):
                await server.commit(wallet, f"h{number}", USD=10)
            stop.set()
            await asyncio.gather(*storm)
            proxy.latency_s = 0
            assert len(await server.debits(wallet, at_least=COMMITS)) == COMMITS
            async with open_audit(config) as audit:
                await audit.assert_conserved(wallet, stormy)
