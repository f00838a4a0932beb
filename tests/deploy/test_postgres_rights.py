"""What the roles of `deploy/postgres/roles.sql` may not do. What a server may do, every other test shows."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import asyncpg
import pytest

import stores
from drawdown_server.ledger.migrations import migrate
from drawdown_server.ledger.rights import grant_rights

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from drawdown_server.dev.postgres import PostgresProcess

RECORDED: Final = ("entries", "hold_events", "wallet_changes", "dead_letters")
READER: Final = "drawdown_reader"
OWNER: Final = "drawdown_migrator"


@pytest.fixture
async def server(postgres_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection with the role of a server."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


@pytest.mark.parametrize("table", RECORDED)
@pytest.mark.parametrize(
    "statement", ["UPDATE {} SET tenant_id = 'x'", "DELETE FROM {}", "TRUNCATE {}", "DROP TABLE {}"], ids=str.split
)
async def test_a_server_changes_and_deletes_nothing_that_is_recorded(
    server: asyncpg.Connection[asyncpg.Record], statement: str, table: str
) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await server.execute(statement.format(table))


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM wallets",
        "DELETE FROM grants",
        "DELETE FROM balances",
        "DELETE FROM api_keys",
        "UPDATE assets SET scale = 0",
        "UPDATE installation SET partition_count = 1",
        "INSERT INTO schema_migrations (version, name, checksum) VALUES (9999, 'x', 'x')",
        "ALTER TABLE entries DISABLE TRIGGER ALL",
        "ALTER TABLE entries DROP CONSTRAINT entries_pkey",
        "CREATE TABLE mine (i integer)",
        "CREATE FUNCTION f() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "CREATE SCHEMA mine",
        f"SET ROLE {OWNER}",
        "COPY entries TO PROGRAM 'cat'",
        "COPY entries FROM '/etc/passwd'",
        "SELECT rolpassword FROM pg_authid",
        "SELECT pg_read_file('/etc/passwd')",
        "ALTER SYSTEM SET fsync = off",
    ],
)
async def test_a_server_may_not(server: asyncpg.Connection[asyncpg.Record], statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await server.execute(statement)


async def test_a_right_that_was_not_listed_is_none(server: asyncpg.Connection[asyncpg.Record]) -> None:
    """As `test_ledger_rights.py` has the tables from the migrations' text, here they are from Postgres' catalogue."""
    rows = await server.fetch(
        "SELECT relname, has_table_privilege(oid, 'SELECT') AS reads,"
        " has_table_privilege(oid, 'TRUNCATE, REFERENCES, TRIGGER') AS more, pg_get_userbyid(relowner) AS owner"
        " FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'S')"
    )
    assert {row["relname"] for row in rows if not row["reads"]} == set(), "add lines to ledger/sql/rights/"
    assert {row["relname"] for row in rows if row["more"]} == set()
    assert {row["owner"] for row in rows} == {OWNER}


async def test_people_who_look_read_and_change_nothing(superuser_url: str) -> None:
    connection = await asyncpg.connect(superuser_url)
    try:
        await connection.execute(f"SET ROLE {READER}")
        assert await connection.fetchval("SELECT count(*) FROM entries") == 0
        for statement in (
            "DELETE FROM servers",
            "UPDATE wallets SET state = 'CLOSED'",
            "SELECT * FROM api_key_secrets",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()


async def test_a_server_finds_nothing_to_migrate_without_the_right_to_migrate(postgres_url: str) -> None:
    assert await migrate(postgres_url) == []


async def test_passwords_of_a_container_are_those_in_its_environment(
    postgres_process: PostgresProcess, postgres_url: str, superuser_url: str
) -> None:
    if shutil.which("psql") is None:
        pytest.skip("psql is not installed (Debian: apt-get install postgresql-client)")
    superuser = urlsplit(superuser_url)
    server = {"PGHOST": "127.0.0.1", "PGPORT": str(postgres_process.port), "PGPASSWORD": str(superuser.password)}
    database = {"POSTGRES_USER": str(superuser.username), "POSTGRES_DB": superuser.path.removeprefix("/")}
    odd = "it's; $(new) \\"
    for password in (odd, stores.PASSWORD):
        await asyncio.to_thread(
            subprocess.run,
            [stores.DEPLOY / "postgres" / "passwords.sh"],
            env=os.environ
            | server
            | database
            | {"POSTGRES_MIGRATOR_PASSWORD": stores.PASSWORD, "POSTGRES_SERVER_PASSWORD": password},
            check=True,
        )
        connection = await asyncpg.connect(postgres_url, password=password)
        await connection.close()


async def test_roles_are_made_before_the_schema_or_after_it_once_or_twice(postgres_process: PostgresProcess) -> None:
    url = await postgres_process.create_database("roles_later")
    try:
        connection = await asyncpg.connect(url)
        try:
            for _ in range(2):
                await connection.execute(stores.ROLES.read_text())
            owner = stores.as_user(url, stores.MIGRATOR)
            assert (await migrate(owner))[0] == "0001_init"
            for _ in range(2):
                assert await grant_rights(owner) == [READER, stores.SERVER_ROLE]
            database = await connection.fetchrow(
                "SELECT has_database_privilege('drawdown_server', current_database(), 'CREATE, TEMP') AS makes,"
                " has_database_privilege('drawdown_server', current_database(), 'CONNECT') AS enters,"
                " EXISTS (SELECT FROM aclexplode(datacl) WHERE grantee = 0) AS open"
                " FROM pg_database WHERE datname = current_database()"
            )
            assert database is not None
            assert dict(database) == {"makes": False, "enters": True, "open": False}
        finally:
            await connection.close()
    finally:
        await postgres_process.drop_database("roles_later")
