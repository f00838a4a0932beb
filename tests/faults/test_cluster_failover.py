"""A primary of a Valkey Cluster dies and its replica takes over: the others go on, and nothing is debited twice.

Replication is asynchronous: what a primary acknowledged in its last moment may be lost with it. So the gateways here
bring their tokens, and send every Commit again at the end.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import pytest

from faults.clusters import (
    assert_books,
    at_work,
    cluster_settings,
    gateway_on,
    own_cluster,
    owner,
    partitions_elsewhere,
    partitions_on,
    serving,
    wallet_in,
)
from faults.gateway import Gateway
from faults.processes import program
from integration.audit import open_audit
from integration.server import commit_request, until

if TYPE_CHECKING:
    from pathlib import Path

    from drawdown_server.dev.valkey_cluster import ClusterNode

COMMITS: Final = 30
FAILOVER_MS: Final = 3_000
"""Silence of a primary after which its replica takes over."""


async def test_a_primary_that_is_killed_under_load_is_followed_by_its_replica_while_the_others_go_on(
    postgres_url: str, directory: Path
) -> None:
    async with own_cluster(directory, replicas=1, node_timeout_ms=FAILOVER_MS) as cluster:
        config = cluster_settings(cluster, postgres_url)
        async with serving(config, directory) as (_, rpc):
            victim = owner(cluster, 0)
            (replica,) = cluster.replicas_of(victim)
            theirs = await gateway_on(rpc, partitions_on(cluster, victim) * 2, brings_tokens=True)
            others = await gateway_on(rpc, partitions_elsewhere(cluster, victim))
            async with at_work(theirs, others):
                await theirs.reaches(COMMITS)
                await asyncio.to_thread(victim.kill)
                await others.reaches(COMMITS)
                await asyncio.to_thread(cluster.wait_until_promoted, replica)
                await theirs.reaches(COMMITS)
                await asyncio.to_thread(cluster.start)
                await others.reaches(COMMITS)
            assert theirs.retries > 0
            assert others.retries == 0
            await theirs.repeat_commits()
            await assert_books(config, theirs, others)


async def test_a_failover_that_an_operator_asks_for_loses_nothing(postgres_url: str, directory: Path) -> None:
    async with own_cluster(directory, replicas=1) as cluster:
        config = cluster_settings(cluster, postgres_url)
        async with serving(config, directory) as (_, rpc):
            first = owner(cluster, 0)
            (second,) = cluster.replicas_of(first)
            theirs = await gateway_on(rpc, partitions_on(cluster, first) * 2)
            others = await gateway_on(rpc, partitions_elsewhere(cluster, first))
            async with at_work(theirs, others):
                for replica in (second, first):
                    await theirs.reaches(COMMITS)
                    await asyncio.to_thread(cluster.fail_over, replica)
                    await theirs.reaches(COMMITS)
                    await asyncio.to_thread(cluster.wait_until_agreed)
            assert others.retries == 0
            await assert_books(config, theirs, others, epochs={1})


async def cut_off(primary: ClusterNode, replica: ClusterNode) -> None:
    """From now on the replica gets nothing: it stands still, and what is not on its way yet will never be."""
    replica.pause()
    await asyncio.to_thread(primary.ask, "CLIENT", "KILL", "TYPE", "replica")


async def test_a_replica_that_lags_begins_a_new_epoch_of_its_partitions_alone(
    postgres_url: str, directory: Path
) -> None:
    async with own_cluster(directory, replicas=1) as cluster:
        config = cluster_settings(cluster, postgres_url)
        async with serving(config, directory) as (process, rpc):
            victim = owner(cluster, 0)
            (replica,) = cluster.replicas_of(victim)
            lost, kept = partitions_on(cluster, victim), partitions_elsewhere(cluster, victim)
            wallet = await wallet_in(rpc, lost[0], USD=100)
            elsewhere = [await wallet_in(rpc, partition, USD=100) for partition in kept]
            for other in elsewhere:
                await rpc.authorize(other, "open", USD=5)
            await rpc.authorize(wallet, "replicated", USD=10)
            await rpc.commit(wallet, "replicated", USD=10)
            await rpc.debits(wallet, at_least=1)
            with victim.client() as client:
                assert client.wait(1, 10_000) == 1

            await cut_off(victim, replica)
            held = (await rpc.authorize(wallet, "lost", USD=20)).hold
            await rpc.authorize(wallet, "recorded", USD=30)
            await rpc.commit(wallet, "recorded", USD=30)
            await rpc.debits(wallet, at_least=2)
            await asyncio.to_thread(victim.kill)
            replica.resume()
            await asyncio.to_thread(cluster.fail_over, replica, "TAKEOVER")

            by_token = commit_request(wallet, "lost", USD=20)
            by_token.hold_token = held.hold_token
            assert (await Gateway(rpc, []).answer(by_token)).late
            assert (await rpc.balance(wallet)).available_units == 40
            for other in elsewhere:
                assert (await rpc.balance(other)).held_units == 5, "its hold is still there"
                await rpc.commit(other, "open", USD=5)
            async with open_audit(config) as audit:
                await audit.assert_conserved(wallet, *elsewhere)
                epochs = {row.partition: row.epoch for row in await audit.stores.ledger.read_partitions()}
            assert epochs[lost[0]] == 2
            assert {epochs[partition] for partition in kept} == {1}
            rebuilt = [line for line in process.log_lines() if line["event"] == "partition_rebuilt"]
            assert {line["partition"] for line in rebuilt} <= set(lost)


@pytest.mark.parametrize("how", ["killed", "hanging"])
async def test_a_flusher_that_drains_a_backlog_while_a_primary_goes_records_everything_once(
    postgres_url: str, directory: Path, how: str
) -> None:
    async with own_cluster(directory, replicas=1) as cluster:
        config = cluster_settings(cluster, postgres_url, flusher=False, flush_batch_max=10)
        async with serving(config, directory) as (_, rpc):
            victim = owner(cluster, 0)
            (replica,) = cluster.replicas_of(victim)
            gateway = await gateway_on(rpc, [*partitions_on(cluster, victim) * 3, *range(4)], brings_tokens=True)
            async with at_work(gateway):
                await gateway.reaches(10 * COMMITS)
            async with program("flush", config, directory):

                async def begun() -> bool:
                    return any([len(await rpc.entries(wallet)) > 1 for wallet in gateway.wallets])

                await until(begun)
                if how == "killed":
                    await asyncio.to_thread(victim.kill)
                else:
                    victim.pause()
                await asyncio.to_thread(cluster.fail_over, replica, "TAKEOVER")
                await gateway.repeat_commits()
                await assert_books(config, gateway)
                if how == "hanging":
                    victim.resume()
                    await asyncio.to_thread(cluster.wait_until_agreed)
                    await assert_books(config, gateway)
