"""The scripts on a store, ready for wallets: what the fixture ``stage`` hands out, for stores of a test's own too."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from contract.wallets import PARTITIONS, Stage, assert_conserved
from drawdown_server.holds import keys
from drawdown_server.holds.connection import open_connection
from drawdown_server.holds.library import build_library, load_library
from drawdown_server.holds.startup import open_client
from drawdown_server.holds.store import HoldStore
from stores import superuser

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TIMEOUT_MS: Final = 10_000
IN_FLIGHT_MAX: Final = 1_000


@asynccontextmanager
async def open_stage(url: str) -> AsyncIterator[Stage]:
    """A store with an epoch in every partition and the scripts loaded; at the end every wallet is conserved.

    The scripts run as the user in the URL, what a test looks at or breaks as one who may do everything.
    """
    async with (
        open_client(superuser(url), timeout_ms=TIMEOUT_MS) as client,
        open_connection(url, timeout_ms=TIMEOUT_MS, in_flight_max=IN_FLIGHT_MAX) as connection,
    ):
        epochs = [1] * PARTITIONS
        for partition in range(PARTITIONS):
            await client.hset(keys.meta(partition), "epoch", "1")
        library = build_library()
        await load_library(client, library)
        stage = Stage(url, HoldStore(connection, library, epochs), connection, client, library, epochs)
        yield stage
        for wallet in stage.wallets:
            if await client.exists(wallet.keys[3]):
                await assert_conserved(wallet)
