"""Partitions move between the primaries of a Valkey Cluster while they are used, and a new primary gets some."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import grpc
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
    slot_of,
    wallet_in,
)
from integration.server import PARTITIONS, authorize_request, run_server, until

if TYPE_CHECKING:
    from pathlib import Path

    from integration.server import Rpc

COMMITS: Final = 30
MOVED: Final = 0
"""The partition that moves."""


@pytest.mark.parametrize("how", ["in one step", "key by key"])
async def test_a_partition_moves_there_and_back_under_load_and_no_call_fails(
    postgres_url: str, directory: Path, how: str
) -> None:
    async with own_cluster(directory) as cluster:
        config = cluster_settings(cluster, postgres_url)
        move = cluster.migrate_slot if how == "in one step" else cluster.move_slot
        async with run_server(config) as server:
            home = owner(cluster, MOVED)
            away = next(node for node in cluster.primaries if node is not home)
            gateway = await gateway_on(server, [*[MOVED] * 3, *range(PARTITIONS)])
            async with at_work(gateway):
                for target in (away, home, away):
                    await gateway.reaches(COMMITS)
                    await asyncio.to_thread(move, slot_of(MOVED), target)
                    assert owner(cluster, MOVED) is target
                await gateway.reaches(COMMITS)
            assert gateway.retries == 0
            await assert_books(config, gateway, epochs={1})


async def answered(rpc: Rpc, wallet: str, hold_id: str) -> bool:
    """Whether an Authorize is answered; if not, it had no effect and may be sent again."""
    try:
        await rpc.call(authorize_request(wallet, hold_id, USD=1))
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE, error
        return False
    return True


async def test_while_a_partition_is_between_two_nodes_the_others_go_on_and_no_hold_is_lost(
    postgres_url: str, directory: Path
) -> None:
    """Moved key by key, Valkey runs no script on a wallet whose keys are not together."""
    async with own_cluster(directory) as cluster:
        config = cluster_settings(cluster, postgres_url)
        async with run_server(config) as server:
            home = owner(cluster, MOVED)
            away = next(node for node in cluster.primaries if node is not home)
            wallet = await wallet_in(server, MOVED, USD=100)
            await server.authorize(wallet, "before", USD=10)
            others = await gateway_on(server, partitions_elsewhere(cluster, home))
            moving = cluster.moving(slot_of(MOVED), away)
            async with at_work(others):
                move = await asyncio.to_thread(moving.__enter__)
                for number in range(3):
                    assert await asyncio.to_thread(move, 2) == 2
                    await answered(server, wallet, f"between-{number}")
                    await others.reaches(COMMITS)
                await asyncio.to_thread(moving.__exit__, None, None, None)
                await until(lambda: answered(server, wallet, "after"))
            assert others.retries == 0
            for number in range(3):
                await server.authorize(wallet, f"between-{number}", USD=1)
            assert (await server.balance(wallet)).held_units == 14
            await server.commit(wallet, "before", USD=10)
            await assert_books(config, others, epochs={1})
            await server.assert_conserved(wallet)


async def test_partitions_move_to_a_new_primary_which_gets_the_scripts(postgres_url: str, directory: Path) -> None:
    """It is looked at before it is used, so the calls of the first partition there may have to be sent again."""
    async with own_cluster(directory) as cluster:
        config = cluster_settings(cluster, postgres_url)
        async with run_server(config) as server:
            first, later = await gateway_on(server, [0, 0]), await gateway_on(server, [1, 2, 3])
            async with at_work(first, later):
                await later.reaches(COMMITS)
                added = await asyncio.to_thread(cluster.add_node)
                for partition in range(PARTITIONS - 1):
                    await asyncio.to_thread(cluster.migrate_slot, slot_of(partition), added)
                    await first.reaches(COMMITS)
                await later.reaches(COMMITS)
            assert later.retries == 0
            assert partitions_on(cluster, added) == [0, 1, 2]
            await assert_books(config, first, later, epochs={1})
