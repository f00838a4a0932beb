"""Failover of Valkey: to a replica that lags (fault 11), and with an old primary that lives on (fault 12)."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
from structlog.testing import capture_logs

from drawdown_server.dev.process import HOST
from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.holds.startup import open_client
from faults.tcp_proxy import TcpProxy
from integration.audit import open_audit
from integration.server import authorize_request, run_server, settings, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from integration.server import Server

VALKEY_TIMEOUT_MS = 500
IN_SYNC_MS = 15_000


@asynccontextmanager
async def replicated(directory: Path, *extra: str) -> AsyncIterator[tuple[ValkeyProcess, ValkeyProcess, TcpProxy]]:
    """A primary, its replica, and the line between them."""
    async with (
        ValkeyProcess(directory / "primary", extra=["repl-diskless-sync-delay 0", *extra]) as primary,
        TcpProxy(primary.port, counts_replies=False) as line,
        ValkeyProcess(directory / "replica", extra=[f"replicaof {HOST} {line.port}", *extra]) as replica,
    ):
        async with open_client(primary.url, timeout_ms=IN_SYNC_MS + 5_000) as client:

            async def attached() -> bool:
                info = await client.info("replication")
                return bool(info["connected_slaves"] == 1 and info["slave0"]["state"] == "online")

            await until(attached)
        yield primary, replica, line


async def wait_in_sync(primary: ValkeyProcess) -> None:
    async with open_client(primary.url, timeout_ms=IN_SYNC_MS + 5_000) as client:
        await client.set("marker", "1")
        assert await client.execute_command("WAIT", 1, IN_SYNC_MS) == 1


async def promote(replica: ValkeyProcess) -> None:
    async with open_client(replica.url, timeout_ms=5_000) as client:
        await client.execute_command("REPLICAOF", "NO", "ONE")


async def spend(server: Server, wallet: str, hold_id: str, units: int) -> None:
    await server.authorize(wallet, hold_id, USD=units)
    await server.commit(wallet, hold_id, USD=units)


async def served(server: Server, wallet: str) -> bool:
    try:
        await server.balance(wallet)
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE, error.details()
        return False
    return True


async def test_11_a_failover_to_a_replica_that_lags_is_noticed_reported_and_makes_no_money(
    postgres_url: str, directory: Path
) -> None:
    async with replicated(directory) as (primary, replica, line), TcpProxy(primary.port) as address:
        config = settings(address.url, postgres_url, valkey_timeout_ms=VALKEY_TIMEOUT_MS)
        with capture_logs() as logs:
            async with run_server(config) as server:
                wallet = await server.wallet(USD=100)
                await spend(server, wallet, "replicated", 10)
                await server.authorize(wallet, "open", USD=5)
                await server.debits(wallet, at_least=1)
                await wait_in_sync(primary)
                line.stall()
                await spend(server, wallet, "recorded-only", 30)
                await server.debits(wallet, at_least=2)

                await asyncio.to_thread(primary.kill)
                await promote(replica)
                address.lead_to(replica.port)
                address.cut()
                await until(lambda: served(server, wallet))
                balance = await server.balance(wallet)
                assert (balance.available_units, balance.held_units) == (60, 0), "what the ledger has, no more"
                await spend(server, wallet, "after", 60)
                await server.debits(wallet, at_least=3)
                assert not server.task.done()
                async with open_audit(config) as audit:
                    await audit.assert_conserved(wallet)
                    assert await audit.stores.ledger.list_dead_letters(limit=1) == []
        rebuilt = [entry for entry in logs if entry["event"] == "partition_rebuilt"]
        assert [entry["reason"] for entry in rebuilt] == ["outbox is not the one that was recorded"]


async def test_12_an_old_primary_without_replicas_refuses_and_the_new_one_is_served(
    postgres_url: str, directory: Path
) -> None:
    guards = ("min-replicas-to-write 1", "min-replicas-max-lag 1", "repl-ping-replica-period 1")
    async with replicated(directory, *guards) as (primary, replica, line):
        old = settings(primary.url, postgres_url, valkey_timeout_ms=VALKEY_TIMEOUT_MS)
        async with run_server(old) as behind:
            wallet = await behind.wallet(USD=100)
            await spend(behind, wallet, "before", 30)
            await behind.debits(wallet, at_least=1)
            await wait_in_sync(primary)
            line.stall()

            attempts = itertools.count()

            async def refused() -> bool:
                try:
                    await behind.authorize(wallet, f"nobody-hears-{next(attempts)}", USD=1)
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.UNAVAILABLE, error.details()
                    return True
                return False

            await until(refused)
            async with open_client(replica.url, timeout_ms=5_000) as client:
                await client.execute_command("REPLICAOF", "NO", "ONE")
                await client.config_set("min-replicas-to-write", 0)
            # Both primaries live. The claim on the old one runs out, because it takes no writes.
            async with run_server(old.model_copy(update={"valkey_url": replica.url}), assets=False) as ahead:
                await spend(ahead, wallet, "after", 70)
                failure = await behind.failure(authorize_request(wallet, "again", USD=1))
                assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
                await ahead.debits(wallet, at_least=2)
                await ahead.assert_conserved(wallet)
                assert [entry.units for entry in await ahead.debits(wallet, at_least=2)] == [30, 70]
