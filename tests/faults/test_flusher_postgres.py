"""Flushers and a Postgres that is slow, full, cut off in a commit, or waits (faults 13, 16): each event once."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest
from structlog.testing import capture_logs

from faults.processes import program
from faults.tcp_proxy import TcpProxy
from integration.server import run_server, until
from ledgers import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, MutableMapping
    from pathlib import Path
    from typing import Any

    from drawdown_server.config import Config
    from drawdown_server.dev.postgres import PostgresProcess
    from integration.server import Server

WAITS = 2
"""Attempts of the flusher that must have failed before Postgres is well again."""
FULL_DISK = """
    CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
    END $$;
    CREATE TRIGGER disk_full BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION disk_full();
"""
HIDDEN = {
    "no such view": "SET allow_system_table_mods = on; ALTER VIEW pg_catalog.pg_locks RENAME TO elsewhere",
    "no such function": "SET allow_system_table_mods = on;"
    " ALTER FUNCTION pg_catalog.pg_terminate_backend(integer, bigint) RENAME TO elsewhere",
    "no right": "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_terminate_backend(integer, bigint) FROM PUBLIC",
}
"""Postgres as it is where it is another database that speaks its language, or where somebody restricted it."""


async def spend(server: Server, wallet: str, hold_id: str, units: int) -> None:
    await server.authorize(wallet, hold_id, USD=units)
    await server.commit(wallet, hold_id, USD=units)


@asynccontextmanager
async def flusher_waiting(config: Config) -> AsyncIterator[tuple[Server, str, list[MutableMapping[str, Any]]]]:
    """A server with a wallet whose grant is recorded, and the log."""
    with capture_logs() as logs:
        async with run_server(config) as server:
            wallet = await server.wallet(USD=100)
            await spend(server, wallet, "before", 10)
            await server.debits(wallet, at_least=1)
            yield server, wallet, logs


async def has_waited(logs: list[MutableMapping[str, Any]]) -> bool:
    return sum(line["event"] == "flusher_waits" for line in logs) >= WAITS


async def assert_recorded(server: Server, wallet: str) -> None:
    assert [entry.units for entry in await server.debits(wallet, at_least=2)] == [10, 20]
    assert not server.task.done()
    await server.assert_conserved(wallet)


async def test_13_a_connection_that_dies_in_commit_leaves_one_set_of_entries(
    config: Config, directory: Path, postgres_process: PostgresProcess
) -> None:
    """Postgres has committed and the flusher does not know: it reads the position, and goes on behind it."""
    alone = config.model_copy(update={"flusher": False})
    async with TcpProxy(postgres_process.port, counts_replies=False) as proxy, run_server(alone) as server:
        through = alone.postgres_url.replace(f":{postgres_process.port}/", f":{proxy.port}/")
        assert through != alone.postgres_url
        async with program("flush", alone.model_copy(update={"postgres_url": through}), directory) as flusher:
            wallet = await server.wallet(USD=100)
            await spend(server, wallet, "before", 10)
            await server.debits(wallet, at_least=1)
            proxy.lose(b"COMMIT", "cut")
            await spend(server, wallet, "after", 20)

            async def waited() -> bool:
                return any(line["event"] == "flusher_waits" for line in flusher.log_lines())

            await until(waited)
            assert proxy.lost.is_set()
            await assert_recorded(server, wallet)
            assert flusher.process.poll() is None


async def test_13_a_postgres_that_is_too_slow_is_asked_again(config: Config) -> None:
    """Its locks are held for longer than a statement may take."""
    async with flusher_waiting(config.model_copy(update={"postgres_timeout_ms": 200})) as (server, wallet, logs):
        async with server.audit.stores.ledger._transaction() as blocker:
            await blocker.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            await blocker.execute("LOCK TABLE balances IN ACCESS EXCLUSIVE MODE")
            await spend(server, wallet, "after", 20)
            await until(lambda: has_waited(logs))
        await assert_recorded(server, wallet)


async def test_13_a_postgres_whose_disk_is_full_is_asked_again_and_no_event_is_taken_for_poison(
    config: Config, superuser_url: str
) -> None:
    async with flusher_waiting(config) as (server, wallet, logs):
        async with open_store(superuser_url) as store, store._connection() as postgres:
            await postgres.execute(FULL_DISK)
            await spend(server, wallet, "after", 20)
            await until(lambda: has_waited(logs))
            await postgres.execute("DROP TRIGGER disk_full ON entries")
        await assert_recorded(server, wallet)
        assert await server.audit.stores.ledger.list_dead_letters(limit=1) == []


@pytest.mark.parametrize("hide", HIDDEN.values(), ids=HIDDEN)
async def test_a_flusher_goes_on_where_postgres_does_not_let_it_end_others(
    config: Config, superuser_url: str, hide: str
) -> None:
    async with flusher_waiting(config) as (server, wallet, logs):
        async with open_store(superuser_url) as store, store._connection() as postgres:
            await postgres.execute(hide)
            await postgres.execute(FULL_DISK)
            await spend(server, wallet, "after", 20)
            await until(lambda: has_waited(logs))
            await postgres.execute("DROP TRIGGER disk_full ON entries")
        await assert_recorded(server, wallet)
        assert any(line["event"] == "postgres.stuck_flushes_not_ended" for line in logs)


async def test_16_a_flusher_that_stopped_in_the_middle_of_a_copy_is_ended_by_the_next(config: Config) -> None:
    """Postgres waits for its data for ever, and it has the partitions' rows: no timeout of Postgres ends that."""
    quick = config.model_copy(update={"postgres_timeout_ms": 500})
    async with flusher_waiting(quick) as (server, wallet, logs):
        stopped = await asyncpg.connect(config.postgres_url, server_settings={"statement_timeout": "500"})
        begun = asyncio.Event()

        async def data() -> AsyncIterator[bytes]:
            begun.set()
            await asyncio.Event().wait()
            yield b""

        await stopped.execute("BEGIN")
        await stopped.execute("UPDATE partitions SET position = position")
        copying = asyncio.create_task(stopped.copy_to_table("entries", source=data()))
        await begun.wait()
        await spend(server, wallet, "after", 20)

        async def ended() -> bool:
            return any(line["event"] == "flusher_ended_others" for line in logs)

        await until(ended)
        await assert_recorded(server, wallet)
        assert stopped.is_closed()
        copying.cancel()
        await asyncio.gather(copying, return_exceptions=True)
