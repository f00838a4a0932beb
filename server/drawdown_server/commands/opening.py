"""The two stores as an operator's command uses them: nothing is opened, rebuilt or recorded by looking."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drawdown_server.app import check_schema, open_connection_of, open_nodes_of
from drawdown_server.holds.library import build_library
from drawdown_server.holds.opening import check_nodes
from drawdown_server.holds.store import HoldStore
from drawdown_server.ledger.database import open_pool
from drawdown_server.ledger.store import LedgerStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from drawdown_server.config import Config
    from drawdown_server.holds.nodes import Nodes


@dataclass(frozen=True, slots=True)
class Opened:
    """Both stores."""

    nodes: Nodes
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
        nodes = await opened.enter_async_context(open_nodes_of(config))
        library = build_library()
        await check_nodes(nodes, library)
        connection = await opened.enter_async_context(open_connection_of(config, nodes))

        async def epochs(_: Collection[int]) -> dict[int, int]:
            return {row.partition: row.epoch for row in await ledger.read_partitions()}

        holds = HoldStore(connection, library, [0] * config.partitions)
        holds.on_stale_epoch(epochs)
        await holds.learn_epochs()
        yield Opened(nodes, ledger, holds)
