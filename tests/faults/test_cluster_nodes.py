"""One primary of a Valkey Cluster hangs or loses replies, and a whole cluster is restarted."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
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
    wallet_in,
)
from faults.tcp_proxy import TcpProxy
from integration.server import authorize_request, commit_request, run_server, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from drawdown_server.dev.valkey_cluster import ClusterNode, ValkeyCluster
    from faults.tcp_proxy import Loss
    from integration.server import Rpc

COMMITS: Final = 30


@asynccontextmanager
async def line_to(cluster: ValkeyCluster, node: ClusterNode) -> AsyncIterator[TcpProxy]:
    """A proxy by which all find this node, as they would behind the address that another host is told."""
    async with TcpProxy(node.port) as proxy:
        await asyncio.to_thread(node.announce, proxy.port)

        async def known() -> bool:
            views = await asyncio.to_thread(lambda: [other.ask("CLUSTER", "NODES") for other in cluster.nodes])
            return all(f":{proxy.port}@".encode() in view for view in views)

        await until(known)
        yield proxy


async def is_unavailable(rpc: Rpc, wallet: str, hold_id: str) -> bool:
    try:
        await rpc.call(authorize_request(wallet, hold_id, USD=1))
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE, error
        return True
    return False


@pytest.mark.parametrize("loss", ["cut", "silence"])
async def test_replies_of_one_primary_are_lost_and_the_same_calls_again_have_one_effect(
    postgres_url: str, directory: Path, loss: Loss
) -> None:
    async with own_cluster(directory) as cluster, line_to(cluster, owner(cluster, 0)) as line:
        config = cluster_settings(cluster, postgres_url)
        lossy = owner(cluster, 0)
        async with run_server(config) as server:
            wallet = await wallet_in(server, 0, USD=100)
            others = await gateway_on(server, partitions_elsewhere(cluster, lossy))
            async with at_work(others):
                for verb, request in (
                    (b"authorize_", authorize_request(wallet, "h", USD=10)),
                    (b"commit_", commit_request(wallet, "h", USD=7)),
                ):
                    line.lose(verb, loss)
                    failure = await server.failure(request)
                    assert line.lost.is_set()
                    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")

                    async def replayed(request: object = request) -> bool:
                        try:
                            return bool((await server.call(request)).replayed)  # type: ignore[arg-type]
                        except grpc.aio.AioRpcError as error:
                            assert error.code() is grpc.StatusCode.UNAVAILABLE, error
                            return False

                    await until(replayed)
                    await others.reaches(COMMITS)
            assert others.retries == 0
            assert [entry.units for entry in await server.debits(wallet, at_least=1)] == [7]
            await assert_books(config, others, epochs={1})
            await server.assert_conserved(wallet)


async def test_a_primary_that_hangs_holds_up_its_own_partitions_alone(postgres_url: str, directory: Path) -> None:
    async with own_cluster(directory) as cluster:
        config = cluster_settings(cluster, postgres_url)
        async with run_server(config) as server:
            hanging = owner(cluster, 0)
            theirs = await gateway_on(server, partitions_on(cluster, hanging) * 2)
            others = await gateway_on(server, partitions_elsewhere(cluster, hanging))
            async with at_work(theirs, others):
                await theirs.reaches(COMMITS)
                hanging.pause()
                try:
                    for number in range(10):
                        assert await is_unavailable(server, theirs.wallets[0], f"x{number}")
                    await others.reaches(3 * COMMITS)
                finally:
                    hanging.resume()
                await theirs.reaches(COMMITS)
            assert others.retries == 0
            assert theirs.retries > 0
            await assert_books(config, theirs, others, epochs={1})


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_a_whole_cluster_that_is_restarted_under_load_has_lost_nothing(
    postgres_url: str, directory: Path, how: str
) -> None:
    async with own_cluster(directory) as cluster:
        config = cluster_settings(cluster, postgres_url)
        async with run_server(config) as server:
            gateway = await gateway_on(server, range(4))
            async with at_work(gateway):
                await gateway.reaches(COMMITS)
                if how == "killed":
                    for node in cluster.nodes:
                        node.kill()
                else:
                    await asyncio.to_thread(cluster.stop)
                await asyncio.to_thread(cluster.start)
                await gateway.reaches(COMMITS)
            assert gateway.retries > 0
            await assert_books(config, gateway, epochs={1})
            assert not server.task.done()
