"""A server on a Valkey Cluster does what it does on one Valkey; its bad days are in faults/test_cluster_*.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import stores
from drawdown_server.holds import keys
from integration.server import PARTITIONS, run_server, settings

if TYPE_CHECKING:
    from drawdown_server.config import Config
    from drawdown_server.dev.valkey_cluster import ValkeyCluster
    from integration.server import Server

WALLETS = 24
"""So many that every partition has some."""


@pytest.fixture
def config(cluster: ValkeyCluster, postgres_url: str) -> Config:
    return settings(stores.as_user(cluster.url, stores.SERVER_USER), postgres_url)


async def fill(server: Server) -> list[str]:
    """Wallets in every partition, each of which has spent 30 of its 100."""
    wallets = [await server.wallet(USD=100) for _ in range(WALLETS)]
    places = {keys.partition_of(server.config.tenant, wallet, PARTITIONS) for wallet in wallets}
    assert places == set(range(PARTITIONS))
    for wallet in wallets:
        await server.authorize(wallet, "h", USD=40)
        await server.commit(wallet, "h", USD=30)
    return wallets


async def test_money_moves_on_every_node_and_all_of_it_is_recorded(config: Config, cluster: ValkeyCluster) -> None:
    async with run_server(config) as server:
        wallets = await fill(server)
        for wallet in wallets:
            await server.debits(wallet, at_least=1)
            await server.assert_conserved(wallet)
        assert len({cluster.owner(keys.slot(partition)) for partition in range(PARTITIONS)}) > 1
