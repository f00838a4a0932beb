"""Two live Valkeys behind one Postgres: at most one of them serves (faults 10 and 12), and servers that slept learn."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import grpc
import pytest

from drawdown_server.dev.valkey import ValkeyProcess
from faults.processes import Program, program
from integration.audit import open_audit
from integration.server import Rpc, commit_request, open_channel, settings, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from drawdown_server.config import Config

VALKEY_TIMEOUT_MS: Final = 300


@asynccontextmanager
async def server(config: Config, directory: Path) -> AsyncIterator[tuple[Program, Rpc]]:
    """A server as a process of its own, and a channel to it."""
    async with program("serve", config, directory) as running:
        port = await running.ready()
        async with open_channel(port) as channel:
            yield running, Rpc(channel)


async def spend(rpc: Rpc, wallet: str, hold_id: str, units: int) -> None:
    await rpc.authorize(wallet, hold_id, USD=units)
    await rpc.commit(wallet, hold_id, USD=units)


async def served(rpc: Rpc, wallet: str) -> bool:
    """Whether the wallet can be read; else the caller is told to come again."""
    try:
        await rpc.balance(wallet)
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE, error.details()
        return False
    return True


async def assert_books(config: Config, wallet: str, *, epochs: set[int]) -> None:
    async with open_audit(config) as audit:
        await audit.assert_conserved(wallet)
        assert {row.epoch for row in await audit.stores.ledger.read_partitions()} == epochs
        assert await audit.stores.ledger.list_dead_letters(limit=1) == []


async def test_a_server_with_the_url_of_an_empty_valkey_is_refused_while_others_serve(
    valkey_url: str, postgres_url: str, directory: Path
) -> None:
    config = settings(valkey_url, postgres_url)
    async with ValkeyProcess(directory / "other") as other, server(config, directory) as (_, rpc):
        await rpc.create_assets()
        wallet = await rpc.wallet(USD=100)
        await spend(rpc, wallet, "before", 30)
        wrong = Program("serve", config.model_copy(update={"valkey_url": other.url}), directory)
        try:
            wrong.launch()
            assert await wrong.exit_code() == 1
        finally:
            wrong.close()
        assert "serves from another Valkey than this process is connected to" in wrong.log()
        await spend(rpc, wallet, "after", 70)
        await assert_books(config, wallet, epochs={1})


async def test_a_valkey_that_was_replaced_under_two_servers_is_served_by_both(
    postgres_url: str, directory: Path
) -> None:
    """Fault 10: it comes back empty, as another process on the same address; nothing has to be done by hand."""
    async with ValkeyProcess(directory / "valkey") as valkey:
        config = settings(valkey.url, postgres_url, valkey_timeout_ms=VALKEY_TIMEOUT_MS)
        async with server(config, directory) as (_, first), server(config, directory) as (_, second):
            await first.create_assets()
            wallet = await first.wallet(USD=100)
            await spend(first, wallet, "before", 30)
            await first.debits(wallet, at_least=1)
            await second.authorize(wallet, "lost", USD=20)
            await asyncio.to_thread(valkey.kill)
            async with ValkeyProcess(directory / "empty", port=valkey.port):
                for rpc in (first, second):
                    await until(lambda rpc=rpc: served(rpc, wallet))
                assert (await first.balance(wallet)).available_units == 70
                await spend(second, wallet, "after", 70)
                await second.debits(wallet, at_least=2)
                await assert_books(config, wallet, epochs={2})


@pytest.mark.parametrize("sleeper_knows", [False, True], ids=["within its claim", "after its claim"])
async def test_a_server_that_slept_through_a_rebuild_is_refused_by_the_scripts_and_learns(
    valkey_url: str, postgres_url: str, directory: Path, sleeper_knows: bool
) -> None:
    config = settings(valkey_url, postgres_url)
    async with server(config, directory) as (_, awake), server(config, directory) as (sleeper, asleep):
        await awake.create_assets()
        wallet = await awake.wallet(USD=100)
        await spend(asleep, wallet, "before", 30)
        await awake.debits(wallet, at_least=1)
        await asleep.authorize(wallet, "lost", USD=20)
        sleeper.send(signal.SIGSTOP)
        async with open_audit(config) as audit:
            await audit.stores.nodes.of(0).flushall()
            await until(lambda: served(awake, wallet))
            if sleeper_knows:

                async def ran_out() -> bool:
                    async with audit.stores.ledger._connection() as connection:
                        count: int = await connection.fetchval("SELECT count(*) FROM servers WHERE expire_time < now()")
                    return count == 1

                await until(ran_out)
        sleeper.send(signal.SIGCONT)
        balance = await asleep.balance(wallet)
        assert (balance.available_units, balance.held_units) == (70, 0)
        failure = await asleep.failure(commit_request(wallet, "lost", USD=1))
        assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "HOLD_NOT_FOUND")
        await spend(asleep, wallet, "after", 70)
        await awake.debits(wallet, at_least=2)
        await assert_books(config, wallet, epochs={2})
