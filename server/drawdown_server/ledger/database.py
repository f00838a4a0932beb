"""The connection to Postgres: pool, timeouts, and the one place where a driver's errors become ours.

Every statement has a limit on both sides: ``statement_timeout`` makes Postgres give up (so that no forgotten query
keeps its locks), and asyncpg's ``command_timeout`` a little later makes us give up when Postgres cannot answer at all.
JSON goes in and out as text, because each column is decoded into its own type by ``rows``.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeAlias

import asyncpg
import structlog
from asyncpg import exceptions as pg
from asyncpg.exceptions import _base as pg_client

from drawdown_server.errors import ConfigurationError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from asyncpg.pool import PoolConnectionProxy

    from drawdown_server.config import Config

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

CLIENT_TIMEOUT_EXTRA_S: Final = 1.0
"""How much longer we wait than Postgres' own limit, so that its clear answer arrives when it is alive."""

ACQUIRE_TIMEOUT_S: Final = 5.0
"""Longest wait for one of the pool's connections: a Postgres that hangs must not collect callers for ever."""
CONNECT_TIMEOUT_S: Final = 5.0
"""Longest wait for a new connection: a dead host must not look like a slow one."""

log = structlog.get_logger(__name__)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_UNAVAILABLE: Final = (
    OSError,  # includes TimeoutError and refused or reset connections
    pg.PostgresConnectionError,  # class 08
    pg.InsufficientResourcesError,  # class 53: too many connections, disk full, out of memory
    pg.OperatorInterventionError,  # class 57: shutdown, crash, starting up, statement timeout
    pg.TransactionRollbackError,  # class 40: deadlock or serialization failure; the same call may be sent again
    pg.PostgresSystemError,  # class 58: an input/output error on the server
    pg.InternalServerError,  # class XX: a damaged page, two statements in each other's way
    pg.ReadOnlySQLTransactionError,  # the other side of a failover
    pg.IdleInTransactionSessionTimeoutError,
    pg.LockNotAvailableError,
    asyncpg.InterfaceError,  # the connection or the pool is closed
    asyncpg.InternalClientError,  # the protocol broke off in the middle
)


_REFUSED: Final = (
    pg.InvalidAuthorizationSpecificationError,  # class 28, a wrong password too
    pg.InvalidCatalogNameError,  # there is no such database
    pg.ObjectNotInPrerequisiteStateError,  # the database takes no connections
    pg.InsufficientPrivilegeError,
)
"""What Postgres says to somebody who must not get in. The texts name the user or the database, never the password."""


@contextmanager
def translated() -> Iterator[None]:
    """Turns every driver error that says "Postgres is not there now", or not for us, into ``StoreUnavailableError``.

    Errors that name a mistake (a violated constraint, a value that does not fit) go through as they are.
    """
    try:
        yield
    except pg_client.DataError:
        raise  # an argument of the wrong type: also an InterfaceError, but a mistake of the caller
    except _REFUSED as error:
        # A password that is being changed, a failover: who serves already goes on without Postgres until it is mended.
        log.error("postgres.refused", error=str(error))  # noqa: TRY400  # a sentence, not a fault of ours
        raise StoreUnavailableError("postgres") from error
    except _UNAVAILABLE as error:
        raise StoreUnavailableError("postgres") from error


@contextmanager
def opening() -> Iterator[None]:
    """``translated``, for the first connection of a process: a refusal is told to who started it.

    Raises:
        ConfigurationError: Postgres refuses us.
    """
    with translated():
        try:
            yield
        except _REFUSED as error:
            raise ConfigurationError(f"postgres refuses the connection: {error}") from error


@contextmanager
def reading_url() -> Iterator[None]:
    """Around what reads the URL of Postgres: the driver's complaint of it may have a part of the password.

    Raises:
        ConfigurationError: It cannot be read.
    """
    try:
        yield
    except OSError:
        raise  # also a certificate that is not trusted, which Python calls a ValueError too
    except ValueError:
        raise ConfigurationError(
            "the URL of postgres is not of the form postgresql://user:password@host:port/database, or an option of it "
            "has no such value (characters such as / in a password are written %2F)"
        ) from None


@asynccontextmanager
async def open_pool(config: Config) -> AsyncIterator[Pool]:
    """The server's pool of connections, closed at the end."""
    timeout_s = config.postgres_timeout_ms / 1000
    with opening(), reading_url():
        pool = await asyncpg.create_pool(
            config.postgres_url,
            # Connections are made by who needs one. A floor is restored in the background, and without Postgres asyncpg
            # logs a traceback for every attempt.
            min_size=0,
            max_size=config.postgres_connections_max,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=timeout_s + CLIENT_TIMEOUT_EXTRA_S,
            reset=_keep_session,
            server_settings={
                "application_name": "drawdown",
                "statement_timeout": str(config.postgres_timeout_ms),
                # A server that stopped in the middle of a transaction must not keep wallets locked.
                "idle_in_transaction_session_timeout": str(config.postgres_timeout_ms),
                "timezone": "UTC",
                # Our statements are tiny and many; compiling them costs more than it saves.
                "jit": "off",
            },
        )
        async with pool.acquire(timeout=ACQUIRE_TIMEOUT_S):  # the first connection: a refusal ends the start
            pass
    try:
        yield pool
    finally:
        try:
            async with asyncio.timeout(timeout_s):
                await pool.close()
        except TimeoutError:
            pool.terminate()  # connections that are still busy are cut


async def _keep_session(_connection: object) -> None:
    """Instead of asyncpg's reset, a round trip per use: nothing of ours leaves locks, cursors or settings behind."""


class Database:
    """Base of the stores: a pool, and the two ways to use it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """A connection for single statements."""
        with translated():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                yield connection

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        """A connection inside one READ COMMITTED transaction."""
        with translated():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection, connection.transaction():
                yield connection


def affected(status: str) -> int:
    """The number of rows in a command tag such as ``UPDATE 3``."""
    return int(status.rpartition(" ")[2])


def to_ms(time: datetime | None) -> int:
    """Milliseconds since the Unix epoch; 0 for null."""
    return 0 if time is None else (time - _EPOCH) // timedelta(milliseconds=1)


def from_ms(time_ms: int) -> datetime | None:
    """The time of so many milliseconds since the Unix epoch; null for 0."""
    return None if time_ms == 0 else _EPOCH + timedelta(milliseconds=time_ms)
