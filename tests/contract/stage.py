"""The scripts on a store, ready for wallets: what the fixture ``stage`` hands out, for stores of a test's own too."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from contract.wallets import PARTITIONS, Stage, assert_conserved
from drawdown_server.holds import keys
from drawdown_server.holds.library import build_library, load_library
from drawdown_server.holds.opening import open_nodes, open_store_connection
from drawdown_server.holds.store import HoldStore
from stores import superuser

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from drawdown_server.holds.store_connection import StoreConnection

TIMEOUT_MS: Final = 10_000
IN_FLIGHT_MAX: Final = 1_000


@asynccontextmanager
async def open_connection(url: str) -> AsyncIterator[StoreConnection]:
    """The connection of the hot path, to whatever kind of store is there."""
    async with (
        open_nodes(url, timeout_ms=TIMEOUT_MS, partitions=PARTITIONS) as nodes,
        open_store_connection(nodes, url, timeout_ms=TIMEOUT_MS, in_flight_max=IN_FLIGHT_MAX) as connection,
    ):
        yield connection


@asynccontextmanager
async def open_stage(url: str) -> AsyncIterator[Stage]:
    """A store with an epoch in every partition and the scripts loaded; at the end every wallet is conserved.

    The scripts run as the user in the URL, what a test looks at or breaks as one who may do everything.
    """
    async with (
        open_nodes(superuser(url), timeout_ms=TIMEOUT_MS, partitions=PARTITIONS) as nodes,
        open_connection(url) as connection,
    ):
        epochs = [1] * PARTITIONS
        for partition in range(PARTITIONS):
            await nodes.of(partition).hset(keys.meta(partition), "epoch", "1")
        library = build_library()
        stage = Stage(url, HoldStore(connection, library, epochs), connection, nodes, library, epochs)
        await stage.everywhere(lambda client: load_library(client, library))
        yield stage
        for wallet in stage.wallets:
            if await wallet.client.exists(wallet.keys[3]):
                await assert_conserved(wallet)
