"""Applies ``sql/migrations/NNNN_name.sql`` in order, each in a transaction of its own, once.

Several servers may start at once without an advisory lock (not every database of our subset has one): a migration
begins by inserting its row into ``schema_migrations``, whose primary key lets one transaction in and makes the others
wait for its outcome. Applied files never change (their checksum is kept), and a database that is newer than this code
is refused, because old code would write what the new schema does not mean.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Final

import asyncpg
from asyncpg import exceptions as pg

from drawdown_server.errors import ConfigurationError
from drawdown_server.ledger.database import CONNECT_TIMEOUT_S, opening, reading_url
from drawdown_server.ledger.queries import QUERIES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from importlib.resources.abc import Traversable

    from drawdown_server.ledger.database import Connection

_FILE: Final = re.compile(r"^(\d{4})_([a-z0-9_]+)\.sql$")

ATTEMPTS_MAX: Final = 1_000
"""Looks at what is missing: one per migration, whoever applied it."""

STATEMENT_TIMEOUT_S: Final = 600.0
"""Longest time for one migration; a large table may need minutes for an index."""


class MigrationError(ConfigurationError):
    """The database and this code do not fit together; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    version: int
    name: str
    sql: str
    checksum: str

    @property
    def title(self) -> str:
        """Its file's name without the ending."""
        return f"{self.version:04d}_{self.name}"


def load(folder: Traversable | None = None) -> list[Migration]:
    """The migrations of this code, in order.

    Raises:
        MigrationError: The files are not numbered 1, 2, 3, ...
    """
    folder = folder or files("drawdown_server.ledger") / "sql" / "migrations"
    migrations = []
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        match = _FILE.match(file.name)
        if match is None:
            raise MigrationError(f"{file.name} is not named like 0001_what_it_does.sql")
        sql = file.read_text(encoding="utf-8")
        migrations.append(Migration(int(match[1]), match[2], sql, hashlib.sha256(sql.encode()).hexdigest()))
    if [migration.version for migration in migrations] != list(range(1, len(migrations) + 1)):
        raise MigrationError("migrations must be numbered 0001, 0002, ... without a gap")
    return migrations


async def migrate(postgres_url: str, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Apply what is missing.

    Returns:
        The titles of the migrations that this call applied; what another server applied meanwhile is not among them.

    Raises:
        MigrationError: An applied file changed, or the database is newer than this code.
        StoreUnavailableError: Postgres cannot be reached.
    """
    known = load() if migrations is None else list(migrations)
    applied: list[str] = []
    async with connect(postgres_url) as connection:
        await _create_table(connection)
        for _ in range(ATTEMPTS_MAX):
            missing = await _missing(connection, known)
            if not missing:
                return applied
            with suppress(_AlreadyThereError, asyncpg.TransactionRollbackError):
                await _apply(connection, missing[0])
                applied.append(missing[0].title)
    raise MigrationError(f"other servers keep migrating this database; gave up after {ATTEMPTS_MAX} attempts")


async def pending(postgres_url: str, migrations: Sequence[Migration] | None = None) -> list[str]:
    """The titles of the migrations that the database still lacks; changes nothing, raises as ``migrate`` does."""
    known = load() if migrations is None else list(migrations)
    async with connect(postgres_url) as connection:
        if await connection.fetchval(QUERIES["migrations_table_exists"]) == 0:
            return [migration.title for migration in known]
        return [migration.title for migration in await _missing(connection, known)]


_MISTAKES: Final = (
    pg.SyntaxOrAccessError,  # class 42: also a table that is or is not there, and missing rights
    pg.IntegrityConstraintViolationError,  # class 23
    pg.DataError,  # class 22
)
"""What a migration itself can get wrong; anything else means that Postgres is not well."""


class _AlreadyThereError(Exception):
    """Another server claimed this version first."""


async def _create_table(connection: Connection) -> None:
    """Create schema_migrations; IF NOT EXISTS looks before it locks, so a server that is as fast as we fails us.

    Where it is, nothing is asked of Postgres that only an owner may do: there may be nothing to migrate.
    """
    if await connection.fetchval(QUERIES["migrations_table_exists"]):
        return
    with suppress(asyncpg.UniqueViolationError, asyncpg.DuplicateTableError, asyncpg.DuplicateObjectError):
        await connection.execute(QUERIES["migrations_table"])


async def _apply(connection: Connection, migration: Migration) -> None:
    """Run one migration; its row is the lock and, in the same transaction, the proof."""
    async with connection.transaction():
        try:
            await connection.execute(QUERIES["migration_claim"], migration.version, migration.name, migration.checksum)
        except asyncpg.UniqueViolationError as error:
            raise _AlreadyThereError from error
        try:
            await connection.execute(migration.sql)
        except _MISTAKES as error:
            raise MigrationError(f"migration {migration.title} failed: {error}") from error


async def _missing(connection: Connection, known: Sequence[Migration]) -> list[Migration]:
    """What must still be applied, after checking what is."""
    by_version = {migration.version: migration for migration in known}
    applied = await connection.fetch(QUERIES["migrations_applied"])
    for row in applied:
        migration = by_version.get(row["version"])
        if migration is None:
            raise MigrationError(
                f"the database is newer than this server: it has migration {row['version']:04d}_{row['name']}, "
                f"this server knows up to {max(by_version, default=0):04d}; upgrade the server"
            )
        if migration.checksum != row["checksum"]:
            raise MigrationError(
                f"migration {migration.title} was changed after it had been applied to this database; "
                "restore the file and put the change into a new migration"
            )
    done = {row["version"] for row in applied}
    return [migration for migration in known if migration.version not in done]


@asynccontextmanager
async def connect(postgres_url: str) -> AsyncIterator[Connection]:
    """One connection for changes of the schema."""
    with opening():
        with reading_url():
            connection = await asyncpg.connect(
                postgres_url, timeout=CONNECT_TIMEOUT_S, command_timeout=STATEMENT_TIMEOUT_S
            )
        try:
            yield connection
        finally:
            await connection.close()
