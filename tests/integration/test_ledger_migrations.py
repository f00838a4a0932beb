from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
import pytest

from drawdown_server.errors import StoreUnavailableError
from drawdown_server.ledger.migrations import Migration, MigrationError, load, migrate, pending

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from drawdown_server.dev.postgres import PostgresProcess

ALL = [migration.title for migration in load()]


def migration(version: int, sql: str, name: str = "test") -> Migration:
    return Migration(version, name, sql, hashlib.sha256(sql.encode()).hexdigest())


FIRST = migration(1, "CREATE TABLE one (a integer); INSERT INTO one VALUES (1)")
SECOND = migration(2, "CREATE TABLE two (a integer)")


@pytest.fixture
async def empty_url(postgres_process: PostgresProcess) -> AsyncIterator[str]:
    name = f"test_{uuid4().hex[:12]}"
    yield await postgres_process.create_database(name)
    await postgres_process.drop_database(name)


async def fetch(url: str, query: str) -> list[tuple[object, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def test_a_fresh_database_gets_everything_once(empty_url: str) -> None:
    assert await pending(empty_url) == ALL
    assert await migrate(empty_url) == ALL
    assert await pending(empty_url) == []
    assert await migrate(empty_url) == []
    assert await fetch(empty_url, "SELECT count(*) FROM entries") == [(0,)]


async def test_no_index_names_what_the_flusher_updates_all_the_time(postgres_url: str) -> None:
    """Such an update would have to write every index of the row."""
    indexes = [
        str(row[0]) for row in await fetch(postgres_url, "SELECT indexdef FROM pg_indexes WHERE tablename = 'grants'")
    ]
    assert len(indexes) == 4
    assert not [index for index in indexes if "remaining_units" in index or "live" in index]


async def test_many_servers_that_start_at_once_apply_each_migration_once(empty_url: str) -> None:
    applied = await asyncio.gather(*(migrate(empty_url, [FIRST, SECOND]) for _ in range(8)))
    assert sorted(title for titles in applied for title in titles) == [FIRST.title, SECOND.title]
    assert await fetch(empty_url, "SELECT a FROM one") == [(1,)]


async def test_a_later_server_applies_only_what_is_missing(empty_url: str) -> None:
    assert await migrate(empty_url, [FIRST]) == [FIRST.title]
    assert await pending(empty_url, [FIRST, SECOND]) == [SECOND.title]
    assert await migrate(empty_url, [FIRST, SECOND]) == [SECOND.title]


async def test_a_migration_that_changed_after_it_was_applied_is_refused(empty_url: str) -> None:
    await migrate(empty_url, [FIRST])
    changed = migration(1, FIRST.sql + " ")
    for check in (migrate, pending):
        with pytest.raises(MigrationError, match="0001_test was changed after it had been applied"):
            await check(empty_url, [changed, SECOND])
    assert await fetch(empty_url, "SELECT version FROM schema_migrations") == [(1,)]


async def test_a_database_that_is_newer_than_the_code_is_refused(empty_url: str) -> None:
    await migrate(empty_url, [FIRST, SECOND])
    for check in (migrate, pending):
        with pytest.raises(MigrationError, match=r"newer than this server: it has migration 0002_test.*up to 0001"):
            await check(empty_url, [FIRST])


async def test_a_migration_that_fails_leaves_nothing_behind(empty_url: str) -> None:
    broken = migration(2, "CREATE TABLE two (a integer); SELECT nonsense FROM nowhere")
    with pytest.raises(MigrationError, match="migration 0002_test failed"):
        await migrate(empty_url, [FIRST, broken])
    assert await fetch(empty_url, "SELECT version FROM schema_migrations") == [(1,)]
    assert await migrate(empty_url, [FIRST, SECOND]) == [SECOND.title]


async def test_an_unreachable_database_is_unavailable() -> None:
    with pytest.raises(StoreUnavailableError, match="postgres cannot be reached"):
        await migrate("postgresql://127.0.0.1:1/nowhere")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0001_a.sql", "0003_b.sql"], "without a gap"),
        (["1_a.sql"], "is not named like"),
        (["0002_a.sql"], "without a gap"),
    ],
)
def test_files_are_numbered_without_a_gap(data_dir: Path, names: list[str], message: str) -> None:
    data_dir.mkdir()
    for name in names:
        (data_dir / name).write_text("SELECT 1")
    with pytest.raises(MigrationError, match=message):
        load(data_dir)


async def test_money_columns_are_bigint_and_every_key_of_a_wallet_begins_with_the_tenant(postgres_url: str) -> None:
    types = await fetch(
        postgres_url,
        "SELECT DISTINCT data_type FROM information_schema.columns "
        "WHERE table_schema = 'public' AND column_name LIKE '%units'",
    )
    assert types == [("bigint",)]
    first_columns = await fetch(
        postgres_url,
        "SELECT DISTINCT a.attname FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid "
        "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0] WHERE i.indisprimary AND c.relname IN "
        "('assets', 'wallets', 'wallet_changes', 'grants', 'balances', 'caps', 'applied_caps', 'cap_usage', 'entries', "
        "'settled_holds', 'hold_events')",
    )
    assert first_columns == [("tenant_id",)]
