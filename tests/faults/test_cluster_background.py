"""One primary of a Valkey Cluster is lost, and what runs beside the calls goes on with what is on the others."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import pytest

from drawdown_server.app import open_stores
from drawdown_server.errors import StoreUnavailableError
from drawdown_server.ledger.backlog import Backlog
from drawdown_server.ledger.flusher import Flusher
from drawdown_server.wallets.changes import ChangeApplier
from drawdown_server.wallets.waker import Waker
from faults.clusters import cluster_settings, own_cluster, owner, partitions_elsewhere, partitions_on, wallet_in
from idle import expire_unseen, forget, load_on_first_use
from integration.audit import open_audit
from integration.server import PARTITIONS, grant_request, run_server, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from drawdown_server.config import Config
    from drawdown_server.dev.valkey_cluster import ValkeyCluster
    from drawdown_server.stores import Stores
    from integration.server import Server

DRAIN_S: Final = 60.0
DEBITED: Final = 30


@asynccontextmanager
async def a_backlog(
    cluster: ValkeyCluster, postgres_url: str
) -> AsyncIterator[tuple[Server, Stores, list[str], list[str]]]:
    """A server that records nothing, stores of its own for the test, and wallets with a grant and a debit each.

    Those on the first primary, and those on the others.
    """
    config = cluster_settings(cluster, postgres_url, flusher=False)
    async with run_server(config) as server, open_stores(config) as stores:
        first = owner(cluster, 0)
        theirs = [await wallet_in(server, partition, USD=100) for partition in partitions_on(cluster, first)]
        others = [await wallet_in(server, partition, USD=100) for partition in partitions_elsewhere(cluster, first)]
        for wallet in (*theirs, *others):
            await debit(server, wallet, "h")
        yield server, stores, theirs, others


async def debit(server: Server, wallet: str, hold_id: str) -> None:
    await server.authorize(wallet, hold_id, USD=DEBITED)
    await server.commit(wallet, hold_id, USD=DEBITED)


def flusher_on(stores: Stores) -> Flusher:
    return Flusher(
        stores.nodes,
        stores.ledger,
        owner="of the test",
        batch_max=100,
        block_ms=0,
        linger_ms=0,
        lease_ttl_ms=60_000,
    )


async def recorded(server: Server, wallets: list[str]) -> list[int]:
    """How many entries each has in the ledger."""
    return [len(await server.audit.entries(wallet)) for wallet in wallets]


async def test_a_flusher_that_ends_records_the_others_and_does_not_call_the_lost_outboxes_empty(
    postgres_url: str, directory: Path
) -> None:
    async with own_cluster(directory) as cluster, a_backlog(cluster, postgres_url) as (server, stores, theirs, others):
        flusher = flusher_on(stores)
        await asyncio.to_thread(owner(cluster, 0).kill)
        assert not await flusher.drain(DRAIN_S)
        assert await recorded(server, others) == [2] * len(others)
        assert await recorded(server, theirs) == [0] * len(theirs)
        await asyncio.to_thread(cluster.start)
        await until(lambda: flusher.drain(DRAIN_S))
        assert await recorded(server, theirs) == [2] * len(theirs)
        await server.assert_conserved(*theirs, *others)


async def test_what_waits_is_shown_of_the_others_as_it_is_and_of_the_lost_one_as_it_was(
    postgres_url: str, directory: Path
) -> None:
    async with own_cluster(directory) as cluster, a_backlog(cluster, postgres_url) as (server, stores, theirs, others):
        look, flusher = Backlog(stores.nodes, stores.ledger), flusher_on(stores)
        await look.run_once()
        assert (look.events, dict(look.units)) == (2 * PARTITIONS, {"USD": DEBITED * PARTITIONS})
        age_s = look.age_s
        await asyncio.to_thread(owner(cluster, 0).kill)
        await debit(server, others[0], "later")
        with pytest.raises(StoreUnavailableError):
            await look.run_once()
        assert (look.events, dict(look.units)) == (2 * PARTITIONS + 1, {"USD": DEBITED * (PARTITIONS + 1)})
        assert look.age_s > age_s
        await flusher.drain(DRAIN_S)
        with pytest.raises(StoreUnavailableError):
            await look.run_once()
        assert (look.events, dict(look.units)) == (2 * len(theirs), {"USD": DEBITED * len(theirs)})
        assert look.age_s > age_s
        await asyncio.to_thread(cluster.start)
        await until(lambda: flusher.drain(DRAIN_S))
        await look.run_once()
        assert (look.events, dict(look.units), look.age_s) == (0, {}, 0.0)
        await server.assert_conserved(*theirs, *others)


async def test_changes_that_were_left_behind_are_applied_on_the_others_and_on_the_lost_one_when_it_is_back(
    postgres_url: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drawdown_server.wallets.changes.WALLETS_PER_RUN", 1)  # the lost one's would fill the round
    async with own_cluster(directory) as cluster, a_backlog(cluster, postgres_url) as (server, stores, theirs, others):
        assert await flusher_on(stores).drain(DRAIN_S)
        await asyncio.to_thread(owner(cluster, 0).kill)
        changes, tenant = ChangeApplier(stores.holds, stores.ledger), server.config.tenant
        for wallet in (theirs[0], others[0]):  # recorded by servers that died before Valkey had it
            await stores.ledger.set_overdraft_limit(tenant, wallet, "USD", 5, "")
        await changes.run_once(0.0)
        assert await overdraft_limit(stores, tenant, others[0]) == 5
        assert not await flusher_on(stores).drain(DRAIN_S)
        await asyncio.to_thread(cluster.start)

        async def applied() -> bool:
            with suppress(StoreUnavailableError):
                await changes.run_once(0.0)
                return await overdraft_limit(stores, tenant, theirs[0]) == 5
            return False

        await until(applied)
        await until(lambda: flusher_on(stores).drain(DRAIN_S))
        await server.assert_conserved(*theirs, *others)


async def overdraft_limit(stores: Stores, tenant_id: str, wallet: str) -> int:
    (balance,) = (await stores.holds.read(tenant_id, wallet)).balances
    return balance.overdraft_limit


async def idle_wallets(config: Config) -> list[str]:
    """A wallet per partition, with a grant that is to expire, recorded."""
    async with run_server(config) as server:
        wallets = [await wallet_in(server, partition, USD=100) for partition in range(PARTITIONS)]
        for wallet in wallets:
            request = grant_request(wallet, "missed", "USD", 7)
            request.expire_time.FromMilliseconds(await server.audit.stores.holds.now_ms() + 60_000)
            await server.call(request)
        await server.assert_conserved(*wallets)
    return wallets


async def test_wallets_of_the_others_are_woken_in_time_and_those_of_the_lost_one_when_it_is_back(
    postgres_url: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drawdown_server.wallets.waker.AGAIN_S", 0.0)
    async with own_cluster(directory) as cluster:
        config = cluster_settings(cluster, postgres_url)
        wallets, elsewhere = await idle_wallets(config), partitions_elsewhere(cluster, owner(cluster, 0))
        async with open_stores(config) as stores:
            load_on_first_use(stores)
            await forget(stores, config.tenant, *wallets)
            await expire_unseen(stores, "missed")
            waker = Waker(stores.holds, stores.ledger, tombstone_ms=config.tombstone_ms)
            await asyncio.to_thread(owner(cluster, 0).kill)
            await waker.run_once()
            assert waker.woken_total == len(elsewhere)
            await asyncio.to_thread(cluster.start)

            async def all_awake() -> bool:
                await waker.run_once()
                return waker.woken_total == PARTITIONS

            await until(all_awake)
            await until(lambda: flusher_on(stores).drain(DRAIN_S))
        async with open_audit(config) as audit:
            await audit.assert_conserved(*wallets)
            for wallet in wallets:
                assert [entry.kind.value for entry in await audit.entries(wallet)] == ["GRANT", "GRANT", "EXPIRE"]
