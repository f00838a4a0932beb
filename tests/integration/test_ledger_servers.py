"""Claims: one Valkey at a time serves an installation."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from drawdown_server.app import open_stores
from drawdown_server.errors import StoreUnavailableError
from drawdown_server.holds.connection import open_connection
from drawdown_server.holds.library import build_library, load_library
from drawdown_server.holds.nodes import OneNode, RunIds
from drawdown_server.holds.store import HoldStore
from drawdown_server.ledger import servers, streams
from drawdown_server.ledger.presence import Presence
from drawdown_server.ledger.recovery import open_partitions
from drawdown_server.ledger.servers import OtherStoreError
from drawdown_server.wallets.evictor import Evictor
from integration.server import settings, until
from ledgers import PARTITIONS, open_redis, open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from redis.asyncio import Redis

    from drawdown_server.ledger.store import LedgerStore


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[LedgerStore]:
    async with open_store(postgres_url) as store:
        yield store


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    async with open_redis(valkey_url) as redis:
        yield redis


async def nothing(_partitions: object = None) -> None:
    """There is nothing to compare with the ledger."""


async def run_out(store: LedgerStore, server_id: str) -> None:
    """Let a claim run out, as time would."""
    async with store._connection() as connection:
        await connection.execute(
            "UPDATE servers SET expire_time = now() - interval '1 second' WHERE server_id = $1", server_id
        )


async def test_any_number_of_servers_claim_the_same_valkey_and_none_another(store: LedgerStore) -> None:
    await store.claim_store("a", "one")
    await store.claim_store("b", "one")
    with pytest.raises(OtherStoreError, match="serves from another Valkey"):
        await store.claim_store("c", "two")
    assert await store.renew_claim("a", "one")
    assert not await store.renew_claim("c", "two")


async def test_a_server_alone_moves_with_its_valkey(store: LedgerStore) -> None:
    await store.claim_store("a", "one")
    await store.claim_store("a", "two")
    assert await store.renew_claim("a", "two")
    assert not await store.renew_claim("a", "one")


async def test_servers_whose_valkey_was_replaced_do_not_wait_for_each_other_for_ever(store: LedgerStore) -> None:
    for server in ("a", "b"):
        await store.claim_store(server, "one")
    with pytest.raises(OtherStoreError):
        await store.claim_store("a", "two")
    await store.claim_store("b", "two")  # the first one has given up its own
    await store.claim_store("a", "two")


async def test_a_claim_that_ran_out_hinders_nobody_and_is_not_renewed(store: LedgerStore) -> None:
    await store.claim_store("a", "one")
    await run_out(store, "a")
    await store.claim_store("b", "two")
    assert not await store.renew_claim("a", "one")
    with pytest.raises(OtherStoreError):
        await store.claim_store("a", "one")


async def test_of_many_that_claim_different_valkeys_at_once_one_gets_it(store: LedgerStore) -> None:
    claims = [store.claim_store(f"s{number}", f"run{number}") for number in range(6)]
    results = await asyncio.gather(*claims, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["NoneType"] + ["OtherStoreError"] * 5


async def test_a_presence_renews_its_claim_until_it_ends(
    store: LedgerStore, redis: Redis, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "CLAIM_TTL_S", 60.0)
    presence = Presence(OneNode(redis), store, "me")
    await presence.claim_patiently()
    async with open_connection(valkey_url, timeout_ms=2_000, in_flight_max=10) as connection:
        running = asyncio.create_task(presence.run(connection, nothing))
        before = await expiry(store, "me")

        async def renewed() -> bool:
            return await expiry(store, "me") > before

        await until(renewed)
        running.cancel()
    await presence.end()
    await store.claim_store("other", "other run")


class FailedOver(OneNode):
    """The primaries of a cluster as one process after the other learns that one of them was replaced."""

    def __init__(self, redis: Redis, *run_ids: str) -> None:
        super().__init__(redis)
        self.run_ids = frozenset(run_ids)

    async def read_run_ids(self) -> RunIds:
        return RunIds(self.run_ids, self.run_ids)

    async def disconnect(self) -> None:
        """There is nothing to cut."""


async def test_a_failover_that_another_process_has_not_noticed_costs_no_claim_on_the_other_primaries(
    store: LedgerStore, redis: Redis
) -> None:
    nodes = FailedOver(redis, "one", "two")
    presence = Presence(nodes, store, "me")
    await presence.claim()
    await store.claim_store("other", "one+two", "one+two")
    nodes.run_ids = frozenset({"one", "three"})  # three takes the place of two
    with pytest.raises(OtherStoreError):
        await presence.claim()
    assert await store.renew_claim("me", "one"), "it serves from there all the time"
    with pytest.raises(OtherStoreError):
        await store.claim_store("stranger", "elsewhere")
    assert await store.renew_claim("other", "one")  # it has noticed
    await presence.claim()
    assert {claim.run_id for claim in await store.list_claims()} == {"one", "one+three"}


async def test_a_presence_that_slept_while_another_valkey_took_over_distrusts_its_own(
    store: LedgerStore, redis: Redis, valkey_url: str
) -> None:
    presence = Presence(OneNode(redis), store, "sleeper")
    await presence.claim_patiently()
    verified = asyncio.Event()

    async def verify() -> None:
        verified.set()
        await presence.claim()

    async with open_connection(valkey_url, timeout_ms=2_000, in_flight_max=10) as connection:
        connection.on_reconnect(verify)
        await run_out(store, "sleeper")
        await store.claim_store("other", "another run")
        async with store._connection() as postgres:
            await postgres.execute("UPDATE servers SET expire_time = now() + interval '1 hour'")
            await postgres.execute("UPDATE servers SET expire_time = now() WHERE server_id = 'sleeper'")
        running = asyncio.create_task(presence.run(connection, nothing))
        await asyncio.wait_for(verified.wait(), 10)

        async def refuses() -> bool:
            try:
                await connection.call("PING")
            except StoreUnavailableError:
                return True
            return False

        await until(refuses)
        await store.drop_claim("other")

        async def serves() -> bool:
            return not await refuses()

        await until(serves)
        running.cancel()


async def test_a_server_whose_claim_ran_out_serves_what_another_valkey_did_meanwhile(
    valkey_url: str, postgres_url: str
) -> None:
    """It could not reach Postgres; somebody served from another Valkey, began an epoch there, and is gone again."""
    async with open_stores(settings(valkey_url, postgres_url)) as stores:
        assert stores.holds.epochs[0] == 1
        assert await stores.ledger.bump_epoch(0, 1) == 2
        await stores.ledger.mark_salvaged(0, 1)
        await stores.ledger.mark_opened([(0, 2)])
        async with stores.ledger._connection() as connection:
            await connection.execute("UPDATE servers SET expire_time = now() - interval '1 second'")

        async def has_learnt() -> bool:
            return stores.holds.epochs[0] == 3

        await until(has_learnt)
        assert await streams.read_epochs(stores.nodes, [0]) == [3]


async def test_whose_connections_a_claim_cuts_hears_that_valkey_is_unavailable(
    store: LedgerStore, redis: Redis, valkey_url: str
) -> None:
    """At whatever step of a command: nothing else may come out of the loops of a server, it would end the process."""
    await open_partitions(OneNode(redis), store, PARTITIONS)
    await redis.hset("{dd00}:h", "f", "v")
    library = build_library()
    async with open_connection(valkey_url, timeout_ms=2_000, in_flight_max=10) as connection:
        holds = HoldStore(connection, library, [1] * PARTITIONS)
        evictor = Evictor(OneNode(redis), holds, store, idle_s=1, interval_ms=10)
        work: list[Callable[[], Awaitable[object]]] = [
            lambda: streams.read_streams(OneNode(redis), {"{dd00}:s": "0"}, count=1, block_ms=50),
            lambda: streams.read_infos(OneNode(redis), ["{dd00}:s"]),
            lambda: streams.raise_epoch(OneNode(redis), 0, 1),
            lambda: streams.scan(redis, "*", 0, 10),
            lambda: load_library(redis, library),
            evictor.run_once,
        ]
        raised = set()
        for steps in range(150):
            tasks = [asyncio.ensure_future(begin()) for begin in work]
            for _ in range(steps % 30):
                await asyncio.sleep(0)
            await redis.connection_pool.disconnect()
            raised |= {repr(error) for error in await asyncio.gather(*tasks, return_exceptions=True) if is_error(error)}
    assert raised == {repr(StoreUnavailableError("valkey"))}


def is_error(result: object) -> bool:
    return isinstance(result, BaseException)


async def expiry(store: LedgerStore, server_id: str) -> float:
    async with store._connection() as connection:
        seconds = await connection.fetchval(
            "SELECT extract(epoch FROM expire_time) FROM servers WHERE server_id = $1", server_id
        )
    return float(seconds)
