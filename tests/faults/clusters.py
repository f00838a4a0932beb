"""A cluster of a test's own, a server process on it, and wallets on the node that the test has in mind."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from redis.crc import key_slot

import stores
from drawdown_server.config import new_token_key
from drawdown_server.dev.valkey_cluster import NODE_TIMEOUT_MS, ValkeyCluster
from drawdown_server.holds import keys
from faults.gateway import Gateway
from faults.processes import program
from integration.audit import open_audit
from integration.server import PARTITIONS, Rpc, open_channel, settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from drawdown_server.config import Config
    from drawdown_server.dev.valkey_cluster import ClusterNode
    from faults.processes import Program

TOKEN_KEY: Final = new_token_key()
VALKEY_TIMEOUT_MS: Final = 1_000
TENANT: Final = "default"
FUNDS: Final = 10_000_000


@asynccontextmanager
async def own_cluster(
    directory: Path, *, replicas: int = 0, node_timeout_ms: int = NODE_TIMEOUT_MS
) -> AsyncIterator[ValkeyCluster]:
    """A cluster that loses no acknowledged write by a crash, with the users of `deploy/`."""
    extra = stores.with_users(directory)
    async with ValkeyCluster(
        directory / "cluster", replicas=replicas, node_timeout_ms=node_timeout_ms, extra=extra
    ) as cluster:
        yield cluster


def cluster_settings(cluster: ValkeyCluster, postgres_url: str, **others: object) -> Config:
    """Settings of a server on a cluster, which signs its holds."""
    url = stores.as_user(cluster.url, stores.SERVER_USER)
    return settings(url, postgres_url, hold_token_keys=TOKEN_KEY, valkey_timeout_ms=VALKEY_TIMEOUT_MS, **others)


@asynccontextmanager
async def serving(config: Config, directory: Path) -> AsyncIterator[tuple[Program, Rpc]]:
    """A server as a process, with the assets of the tests, and a channel to it."""
    async with program("serve", config, directory) as process, open_channel(await process.ready()) as channel:
        rpc = Rpc(channel)
        await rpc.create_assets()
        yield process, rpc


def slot_of(partition: int) -> int:
    return key_slot(keys.meta(partition).encode())


def owner(cluster: ValkeyCluster, partition: int) -> ClusterNode:
    """The primary that has a partition."""
    return cluster.owner(slot_of(partition))


def partitions_on(cluster: ValkeyCluster, node: ClusterNode) -> list[int]:
    return [partition for partition in range(PARTITIONS) if owner(cluster, partition) is node]


def partitions_elsewhere(cluster: ValkeyCluster, node: ClusterNode) -> list[int]:
    return [partition for partition in range(PARTITIONS) if owner(cluster, partition) is not node]


async def wallet_in(rpc: Rpc, partition: int, **units: int) -> str:
    """A new wallet in a partition."""
    while True:
        wallet_id = f"w-{uuid4().hex[:12]}"
        if keys.partition_of(TENANT, wallet_id, PARTITIONS) == partition:
            return await rpc.wallet(wallet_id, **units)


async def gateway_on(rpc: Rpc, partitions: Iterable[int], **options: bool) -> Gateway:
    """A gateway with a wallet in each of these partitions."""
    return Gateway(rpc, [await wallet_in(rpc, partition, USD=FUNDS) for partition in partitions], **options)


@asynccontextmanager
async def at_work(*gateways: Gateway) -> AsyncIterator[None]:
    """Gateways that work during the block, and finish at its end what they have begun."""
    loads = asyncio.gather(*(gateway.run() for gateway in gateways))
    try:
        yield
    finally:
        for gateway in gateways:
            gateway.stop.set()
        await loads


async def assert_books(config: Config, *gateways: Gateway, epochs: set[int] | None = None) -> None:
    """The ledger shows what the gateways were told; with ``epochs``, those of the partitions are these."""
    async with open_audit(config) as audit:
        for gateway in gateways:
            await gateway.assert_recorded(audit)
        if epochs is not None:
            assert {row.epoch for row in await audit.stores.ledger.read_partitions()} == epochs
