"""The stage: a real store with the scripts in it. Every test ends with a check of all books that it touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from contract.wallets import PARTITIONS, Stage, assert_conserved
from drawdown_server.holds import keys
from drawdown_server.holds.connection import open_connection
from drawdown_server.holds.library import build_library, load_library
from drawdown_server.holds.startup import open_client
from drawdown_server.holds.store import HoldStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def stage(store_url: str) -> AsyncIterator[Stage]:
    """A store with an epoch in every partition and the scripts loaded; at the end every wallet is conserved."""
    async with (
        open_client(store_url, timeout_ms=10_000) as client,
        open_connection(store_url, timeout_ms=10_000, in_flight_max=1_000) as connection,
    ):
        epochs = [1] * PARTITIONS
        for partition in range(PARTITIONS):
            await client.hset(keys.meta(partition), "epoch", "1")
        library = build_library()
        await load_library(client, library)
        stage = Stage(store_url, HoldStore(connection, library, epochs), connection, client, library, epochs)
        yield stage
        for wallet in stage.wallets:
            if await client.exists(wallet.keys[3]):
                await assert_conserved(wallet)
