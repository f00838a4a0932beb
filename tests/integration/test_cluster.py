"""A server on a Valkey Cluster does what it does on one Valkey; its bad days are in faults/test_cluster_*.py."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import stores
from drawdown.v1 import authorization_service_pb2 as pb
from drawdown_server.holds import keys
from idle import make_idle
from integration.server import PARTITIONS, run_server, settings, until
from integration.test_commands import command

if TYPE_CHECKING:
    from drawdown_server.config import Config
    from drawdown_server.dev.valkey_cluster import ValkeyCluster
    from integration.server import Server

WALLETS = 16
"""So many that every partition has some."""


@pytest.fixture
def config(cluster: ValkeyCluster, postgres_url: str) -> Config:
    return settings(stores.as_user(cluster.url, stores.SERVER_USER), postgres_url)


async def fill(server: Server) -> list[str]:
    """Wallets in every partition, each of which has spent 30 of its 100."""
    wallets = [await server.wallet(f"w{number}", USD=100) for number in range(WALLETS)]
    places = {keys.partition_of(server.config.tenant, wallet, PARTITIONS) for wallet in wallets}
    assert places == set(range(PARTITIONS))
    for wallet in wallets:
        await server.authorize(wallet, "h", USD=40)
        await server.commit(wallet, "h", USD=30)
    return wallets


async def is_recorded(server: Server) -> bool:
    """Whether somebody records every partition, and has nothing to do."""
    done = await command(server.config, "status", "--json")
    return bool(json.loads(done.out)["healthy"])


async def test_money_moves_on_every_node_and_all_of_it_is_recorded(config: Config, cluster: ValkeyCluster) -> None:
    async with run_server(config) as server:
        wallets = await fill(server)
        for wallet in wallets:
            await server.debits(wallet, at_least=1)
        await server.assert_conserved(*wallets)
        assert len({cluster.owner(keys.slot(partition)) for partition in range(PARTITIONS)}) > 1


async def test_the_commands_of_operators_work_on_all_nodes(config: Config, cluster: ValkeyCluster) -> None:
    async with run_server(config) as server:
        wallets = await fill(server)
        await server.assert_conserved(*wallets)
        assert (await command(config, "check-config")).lines[-1] == "ok: a server can start with these settings"
        await until(lambda: is_recorded(server))
        shown = json.loads((await command(config, "status", "--json")).out)
        primaries = {cluster.owner(keys.slot(partition)) for partition in range(PARTITIONS)}
        assert len(shown["run_id"].split("+")) == len(primaries)
        assert {one["run_id"] for one in shown["servers"]} == {shown["run_id"]}
        assert {one["node"] for one in shown["partitions"]} == {f"127.0.0.1:{node.port}" for node in primaries}
        summary = (await command(config, "status")).lines
        assert any(line.startswith(f"valkey        cluster, {len(primaries)} primaries") for line in summary)

        done = await command(config, "reconcile")
        expected = [f"compared {WALLETS} wallets in Valkey with the ledger", "nothing differs"]
        assert (done.code, done.lines) == (0, expected)
        done = await command(config, "rebuild", "--dry-run")
        assert [line.partition(":")[2] for line in done.lines] == [" serve (both stores have the same history)"] * 4

        assert (await command(config, "rebuild", "--all", "--yes")).code == 0
        for wallet in wallets:
            await server.authorize(wallet, "after", USD=70)
        await server.assert_conserved(*wallets)

        async def is_swept() -> bool:
            """Nothing of the first epoch is left on any node."""
            return not any([await client.keys("{dd*}:1:*") for client in server.audit.stores.nodes.clients])

        await until(is_swept)


async def test_idle_wallets_leave_every_node_and_come_back(config: Config) -> None:
    quick = config.model_copy(update={"evict_idle_s": 60, "evict_interval_ms": 50, "tombstone_ms": 0})
    async with run_server(quick) as server:
        wallets = [await server.wallet(f"w{number}", USD=100) for number in range(WALLETS)]
        await server.assert_conserved(*wallets)
        nodes = server.audit.stores.nodes
        for wallet in wallets:
            partition = keys.partition_of(config.tenant, wallet, PARTITIONS)
            await make_idle(nodes.of(partition), keys.wallet_keys(partition, 1, config.tenant, wallet)[keys.WALLET])

        async def are_gone() -> bool:
            return not any([await client.keys(keys.WALLETS_PATTERN) for client in nodes.clients])

        await until(are_gone)
        for wallet in wallets:
            assert (await server.authorize(wallet, "h", USD=100)).decision == pb.DECISION_APPROVED
        await server.assert_conserved(*wallets)


async def test_a_hold_that_nobody_settles_is_freed_on_every_node(config: Config) -> None:
    async with run_server(config) as server:
        wallets = [await server.wallet(f"w{number}", USD=100) for number in range(WALLETS)]
        for wallet in wallets:
            await server.authorize(wallet, "h", ttl_s=1, USD=100)

        async def is_free(wallet: str) -> bool:
            return (await server.balance(wallet)).available_units == 100

        for wallet in wallets:
            await until(lambda wallet=wallet: is_free(wallet))
        await server.assert_conserved(*wallets)
