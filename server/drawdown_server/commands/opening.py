"""The two stores as an operator's command uses them: nothing is opened, rebuilt or recorded by looking."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drawdown_server.app import check_schema
from drawdown_server.holds.connection import open_connection
from drawdown_server.holds.library import build_library, load_library
from drawdown_server.holds.startup import check_store, open_client
from drawdown_server.holds.store import HoldStore
from drawdown_server.ledger.database import open_pool
from drawdown_server.ledger.store import LedgerStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

    from drawdown_server.config import Config


@dataclass(frozen=True, slots=True)
class Opened:
    """Both stores."""

    client: Redis
    ledger: LedgerStore
    holds: HoldStore


@asynccontextmanager
async def open_ledger(config: Config) -> AsyncIterator[LedgerStore]:
    """The ledger alone.

    Raises:
        ConfigurationError: The database is not at the newest schema.
        StoreUnavailableError: It cannot be reached.
    """
    await check_schema(config)
    async with open_pool(config) as pool:
        yield LedgerStore(pool)


@asynccontextmanager
async def open_both(config: Config) -> AsyncIterator[Opened]:
    """Both stores, at the epochs that Postgres knows. A partition that Valkey has in another one cannot be read.

    Raises:
        ConfigurationError: A store is not fit, or there is another number of partitions.
        StoreUnavailableError: A store cannot be reached.
    """
    async with AsyncExitStack() as opened:
        ledger = await opened.enter_async_context(open_ledger(config))
        await ledger.check_partition_count(config.partitions)
        client = await opened.enter_async_context(open_client(config.valkey_url, timeout_ms=config.valkey_timeout_ms))
        await check_store(client)
        library = build_library()
        await load_library(client, library)
        connection = await opened.enter_async_context(
            open_connection(
                config.valkey_url, timeout_ms=config.valkey_timeout_ms, in_flight_max=config.valkey_in_flight_max
            )
        )

        async def epochs() -> list[int]:
            return [row.epoch for row in await ledger.read_partitions()]

        holds = HoldStore(connection, library, await epochs())
        holds.on_stale_epoch(epochs)
        yield Opened(client, ledger, holds)
