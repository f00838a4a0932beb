"""Valkey loses something while a server works: its scripts, its keys, the last hour. Money is never made by it."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import grpc
import pytest

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import types_pb2
from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.errors import StoreUnavailableError
from drawdown_server.holds import keys
from drawdown_server.holds.connection import open_connection
from drawdown_server.holds.startup import open_client
from drawdown_server.ledger.reconcile import reconcile
from drawdown_server.ledger.store import LedgerStore
from integration.audit import open_audit
from integration.server import PARTITIONS, authorize_request, commit_request, run_server, settings, until
from stores import superuser

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable
    from pathlib import Path

    from redis.asyncio import Redis

    from drawdown_server.config import Config
    from drawdown_server.dev.postgres import PostgresProcess
    from integration.server import Server

VALKEY_TIMEOUT_MS: Final = 500
CONNECTION_NAME: Final = "drawdown"
"""Of the hold scripts' connection, in CLIENT LIST."""
LOSE_BEFORE_DUE_MS: Final = 1_000
"""So that the sweep finds neither connection nor scripts when its time comes, however slow the machine is."""


@asynccontextmanager
async def durable(data_dir: Path, postgres_url: str) -> AsyncIterator[tuple[ValkeyProcess, Config]]:
    """A Valkey of its own that loses no acknowledged write, and the settings of a server on it."""
    async with ValkeyProcess(data_dir, appendfsync="always") as valkey:
        yield valkey, settings(valkey.url, postgres_url, valkey_timeout_ms=VALKEY_TIMEOUT_MS)


async def served(call: Awaitable[object]) -> bool:
    """Whether a call was answered; else it was told to come again, never anything worse."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE, error.details()
        return False
    return True


async def lose_scripts(client: Redis) -> None:
    """The scripts and every connection but this one, in one step."""
    async with client.pipeline(transaction=True) as pipeline:
        pipeline.execute_command("FUNCTION", "FLUSH", "SYNC")
        pipeline.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await pipeline.execute()


def now_ms(time: tuple[int, int]) -> int:
    """Valkey's TIME."""
    return time[0] * 1000 + time[1] // 1000


def partition_of(config: Config, wallet: str) -> int:
    return keys.partition_of(config.tenant, wallet, PARTITIONS)


def wallets_apart(config: Config) -> tuple[str, str]:
    """Two wallets in different partitions."""
    first, *others = (f"w{number}" for number in range(20))
    return first, next(other for other in others if partition_of(config, other) != partition_of(config, first))


async def spend(server: Server, wallet: str, hold_id: str, units: int) -> None:
    assert (await server.authorize(wallet, hold_id, USD=units)).decision == pb.DECISION_APPROVED
    await server.commit(wallet, hold_id, USD=units)


async def ledger_units(server: Server, wallet: str) -> int:
    """What a wallet has by its entries."""
    signs = {types_pb2.ENTRY_KIND_GRANT: 1, types_pb2.ENTRY_KIND_DEBIT: -1}
    return sum(signs[entry.kind] * entry.units for entry in await server.entries(wallet))


async def assert_clean(config: Config, *wallets: str) -> None:
    """The books are right, by an auditor that has seen nothing of what happened."""
    async with open_audit(config) as audit:
        await audit.assert_conserved(*wallets)
        report = await reconcile(audit, audit.stores.ledger, config.tenant)
        assert report.clean, "\n".join(map(str, report.differences))
        assert await audit.stores.ledger.list_dead_letters(limit=10) == []


async def test_lost_scripts_and_connections_while_a_hold_is_due(data_dir: Path, postgres_url: str) -> None:
    async with durable(data_dir, postgres_url) as (_, config), run_server(config) as server:
        idle, busy = [await server.wallet(wallet, USD=100_000) for wallet in wallets_apart(config)]
        client = server.audit.stores.nodes.of(0)
        held = await server.authorize(idle, "due", ttl_s=1.5, USD=400)
        open_holds = keys.wallet_keys(partition_of(config, idle), 1, config.tenant, idle)[5]
        assert await client.zcard(open_holds) == 1
        due_ms = held.hold.expire_time.ToMilliseconds()
        answered = number = losses = 0
        while await client.zcard(open_holds):
            # No call names the idle wallet: only the sweep can free its hold.
            if 0 <= due_ms - now_ms(await client.time()) <= LOSE_BEFORE_DUE_MS:
                await lose_scripts(client)
                losses += 1
            number += 1
            if await served(server.call(authorize_request(busy, f"h{number}", USD=2))):
                answered += await served(server.call(commit_request(busy, f"h{number}", USD=1)))
        assert losses > 0
        assert answered > 0
        assert (await server.get_hold(idle, "due")).state == types_pb2.HOLD_STATE_EXPIRED
        for wallet in (idle, busy):
            await spend(server, wallet, "next", 10)
        assert not server.task.done()
        await assert_clean(config, idle, busy)


async def test_a_valkey_that_went_back_in_time_makes_no_money(data_dir: Path, postgres_url: str) -> None:
    async with durable(data_dir, postgres_url) as (valkey, config), run_server(config) as server:
        wallet, calm = [await server.wallet(wallet, USD=100) for wallet in wallets_apart(config)]
        await spend(server, wallet, "before", 5)
        for name in (wallet, calm):
            await server.authorize(name, "open", USD=20)
        await server.assert_conserved(wallet, calm)
        await asyncio.to_thread(shutil.copytree, valkey.directory / "data", data_dir / "backup")

        await spend(server, wallet, "after", 30)
        await server.grant(wallet, "late", "USD", 1)
        await server.debits(wallet, at_least=2)
        await server.assert_conserved(wallet, calm)
        await asyncio.to_thread(valkey.kill)
        shutil.rmtree(valkey.directory / "data")
        (data_dir / "backup").rename(valkey.directory / "data")
        await asyncio.to_thread(valkey.start)

        await until(lambda: served(server.balance(wallet)))
        balance = await server.balance(wallet)
        assert (balance.available_units, balance.held_units) == (66, 0), "its open hold went with its epoch"
        assert balance.available_units == await ledger_units(server, wallet)
        assert (await server.balance(calm)).held_units == 20, "nothing of this partition was lost"
        assert sorted(row.epoch for row in await server.audit.stores.ledger.read_partitions()) == [1, 1, 1, 2]
        failure = await server.failure(commit_request(wallet, "open", USD=1))
        assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "HOLD_NOT_FOUND")
        assert (await server.commit(wallet, "after", USD=30)).replayed, "the ledger answers for it"
        await spend(server, wallet, "again", 66)
        assert (await server.authorize(wallet, "more", USD=1)).decision == pb.DECISION_DENIED
        await server.commit(calm, "open", USD=20)
        await server.debits(wallet, at_least=3)
        assert not server.task.done()
        await assert_clean(config, wallet, calm)


async def test_a_valkey_that_is_emptied_while_serving_makes_no_money(data_dir: Path, postgres_url: str) -> None:
    async with durable(data_dir, postgres_url) as (_, config), run_server(config) as server:
        wallets = [await server.wallet(USD=100) for _ in range(4)]
        for wallet in wallets:
            await spend(server, wallet, "before", 30)
            await server.authorize(wallet, "open", USD=20)
            await server.debits(wallet, at_least=1)
        await server.audit.stores.nodes.of(0).flushall()

        balances = await asyncio.gather(*(server.balance(wallet) for wallet in wallets))
        assert [(b.available_units, b.held_units) for b in balances] == [(70, 0)] * 4
        assert [await ledger_units(server, wallet) for wallet in wallets] == [70] * 4
        assert {row.epoch for row in await server.audit.stores.ledger.read_partitions()} == {2}
        for wallet in wallets:
            failure = await server.failure(commit_request(wallet, "open", USD=1))
            assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "HOLD_NOT_FOUND")
            await spend(server, wallet, "again", 70)
            await server.debits(wallet, at_least=2)
        assert not server.task.done()
        await assert_clean(config, *wallets)


async def test_reconnecting_again_and_again_without_postgres_leaves_no_connections(
    data_dir: Path, postgres_url: str, postgres_process: PostgresProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new connection is of use once the ledger has been asked; until then each attempt cleans up behind itself."""
    async with durable(data_dir, postgres_url) as (valkey, config), run_server(config) as server:
        wallet = await server.wallet(USD=10)
        attempts, claim = 0, LedgerStore.claim_store

        async def counted(
            ledger: LedgerStore, server_id: str, run_id: str, known: str | None = None, *, keeps: bool = False
        ) -> None:
            nonlocal attempts
            attempts += 1
            await claim(ledger, server_id, run_id, known, keeps=keeps)

        monkeypatch.setattr(LedgerStore, "claim_store", counted)
        await asyncio.to_thread(postgres_process.stop)
        try:
            await asyncio.to_thread(valkey.restart)

            async def tried(times: int = 6) -> bool:
                return attempts >= times

            await until(tried)
            # Not with the auditor's client: its connections are cut whenever it claims the store anew.
            async with open_client(valkey.url, timeout_ms=VALKEY_TIMEOUT_MS) as client:
                names = [connection["name"] for connection in await client.client_list()]
            assert names.count(CONNECTION_NAME) <= 2, "the server's and the auditor's"
        finally:
            await asyncio.to_thread(postgres_process.start)
        await until(lambda: served(server.authorize(wallet, "h", USD=10)))
        assert not server.task.done()


@pytest.mark.parametrize("error", [StoreUnavailableError("postgres"), RuntimeError("a mistake of ours")], ids=repr)
async def test_a_check_that_failed_is_tried_again_whatever_the_failure(valkey_url: str, error: Exception) -> None:
    """While nobody has said that the store is fit no call is served, and afterwards they are."""
    failures = [error]

    async def verify() -> None:
        if failures:
            raise failures.pop()

    async with (
        open_connection(valkey_url, timeout_ms=VALKEY_TIMEOUT_MS, in_flight_max=10) as connection,
        open_client(superuser(valkey_url), timeout_ms=VALKEY_TIMEOUT_MS) as client,
    ):
        connection.on_reconnect(verify)
        connection._run_id = "of another run"  # as if the store had been restarted
        await client.execute_command("CLIENT", "KILL", "ID", await connection.call("CLIENT", "ID"))

        async def answers_again() -> bool:
            try:
                return await connection.call("PING") == b"PONG" and not failures
            except StoreUnavailableError:
                return False

        await until(answers_again, timeout_s=5)
