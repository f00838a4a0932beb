"""The keys of epochs that were left behind go; nothing else does, and no event goes with them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from drawdown_server.holds import keys
from drawdown_server.holds.nodes import OneNode
from drawdown_server.ledger import epochs
from drawdown_server.ledger.epochs import EpochSweeper
from drawdown_server.ledger.recovery import Action, examine_partitions, open_partitions, rebuild_partition
from ledgers import PARTITIONS, TENANT, Live, make_flusher, open_redis, open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from redis.asyncio import Redis

    from drawdown_server.ledger.store import LedgerStore

PARTITION = keys.partition_of(TENANT, "w", PARTITIONS)
EVERY = range(PARTITIONS)
LEFT = 3
"""Events that were acknowledged and never recorded."""


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[LedgerStore]:
    async with open_store(postgres_url) as store:
        yield store


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    async with open_redis(valkey_url) as redis:
        yield redis


@pytest.fixture
async def live(store: LedgerStore, redis: Redis, admin: Redis) -> Live:
    """Two events of ``w`` are recorded and ``LEFT`` are not; every partition has some keys of epoch 1."""
    await open_partitions(OneNode(redis), store, PARTITIONS)
    live = Live(redis, store)
    await live.create_wallet("w", USD=100)
    await live.commit("w", USD=1)
    flusher = make_flusher(redis, store)
    await flusher.run_once()
    assert await flusher.drain(10)
    for _ in range(LEFT):
        await live.commit("w", USD=1)
    for partition in EVERY:
        await redis.zadd(keys.due_wallets(partition, 1), {"t|w": 1})
        await redis.hset(keys.wallet_keys(partition, 1, TENANT, "x")[3], "head", "x")
    await admin.set("not-ours", "1")
    return live


def sweeper(redis: Redis, store: LedgerStore, owned: Collection[int] = EVERY) -> EpochSweeper:
    return EpochSweeper(OneNode(redis), store, lambda: owned)


async def names(redis: Redis) -> set[str]:
    return {name.decode() async for name in redis.scan_iter()}


async def dead_sequences(store: LedgerStore) -> list[int]:
    return [letter.wallet_sequence for letter in await store.list_dead_letters(limit=100)]


@pytest.mark.usefixtures("live")
async def test_the_keys_of_a_left_epoch_go_and_those_of_the_others_stay(
    store: LedgerStore, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "KEYS_PER_ROUND", 1)
    assert await rebuild_partition(OneNode(redis), store, PARTITION) == LEFT
    await redis.zadd(keys.due_wallets(PARTITION, 2), {"t|w": 1})
    before = await names(redis)
    sweep = sweeper(redis, store)
    old = {name for name in before if keys.epoch_of(name) == (PARTITION, 1)}
    assert await sweep.run_once(asyncio.Event()) == len(old) == 3
    assert await names(redis) == before - old
    assert sweep.keys_total == len(old)
    assert await sweep.run_once(asyncio.Event()) == 0, "there is nothing left to look for"
    assert await dead_sequences(store) == [3, 4, 5]


@pytest.mark.usefixtures("live")
async def test_an_epoch_that_is_not_salvaged_yet_keeps_its_keys(store: LedgerStore, redis: Redis) -> None:
    assert await store.bump_epoch(PARTITION, 1) == 2
    before = await names(redis)
    assert await sweeper(redis, store).run_once(asyncio.Event()) == 0
    assert await names(redis) == before
    await open_partitions(OneNode(redis), store, PARTITIONS)
    assert await sweeper(redis, store).run_once(asyncio.Event()) == 3
    assert await dead_sequences(store) == [3, 4, 5]


@pytest.mark.usefixtures("live")
async def test_events_that_were_salvaged_on_another_valkey_are_kept_before_their_outbox_goes(
    store: LedgerStore, redis: Redis
) -> None:
    """A server with a wrong URL began the epoch and found nothing to keep there."""
    assert await store.bump_epoch(PARTITION, 1) == 2
    await store.mark_salvaged(PARTITION, 1)
    assert await dead_sequences(store) == []
    await sweeper(redis, store).run_once(asyncio.Event())
    assert await dead_sequences(store) == [3, 4, 5]
    assert not await redis.exists(keys.outbox(PARTITION, 1))


@pytest.mark.usefixtures("live")
async def test_events_of_an_epoch_that_was_swept_on_another_valkey_are_kept_when_the_first_one_is_back(
    store: LedgerStore, redis: Redis
) -> None:
    """A server with a wrong URL served for long enough to find no keys of the old epoch there."""
    assert await store.bump_epoch(PARTITION, 1) == 2
    await store.mark_salvaged(PARTITION, 1)
    await store.mark_opened([(PARTITION, 2)])
    await store.mark_swept(await store.list_left_epochs())
    assert (await open_partitions(OneNode(redis), store, PARTITIONS))[PARTITION] == 3
    await sweeper(redis, store).run_once(asyncio.Event())
    assert await dead_sequences(store) == [3, 4, 5]
    assert {keys.epoch_of(name) for name in await names(redis)}.isdisjoint({(PARTITION, 1), (PARTITION, 2)})


@pytest.mark.usefixtures("live")
async def test_partitions_of_others_are_left_to_them(store: LedgerStore, redis: Redis, admin: Redis) -> None:
    for partition in EVERY:
        await rebuild_partition(OneNode(redis), store, partition)
    mine = [0, 1]
    await sweeper(redis, store, mine).run_once(asyncio.Event())
    left = {place for name in await names(redis) if (place := keys.epoch_of(name))}
    assert left == {(partition, 1) for partition in EVERY if partition not in mine}
    await sweeper(redis, store).run_once(asyncio.Event())
    assert {name for name in await names(redis) if keys.epoch_of(name)} == set()
    assert await admin.exists("not-ours")


@pytest.mark.usefixtures("live")
async def test_a_sweep_that_was_stopped_begins_anew(store: LedgerStore, redis: Redis) -> None:
    await rebuild_partition(OneNode(redis), store, PARTITION)
    stop = asyncio.Event()
    stop.set()
    assert await sweeper(redis, store).run_once(stop) == 0
    assert await sweeper(redis, store).run_once(asyncio.Event()) == 3


async def test_an_examination_says_what_a_server_would_do_and_changes_nothing(
    store: LedgerStore, redis: Redis, live: Live
) -> None:
    async def verdict() -> tuple[Action, int]:
        rows, everything = await store.read_partitions(), await names(redis)
        (found,) = await examine_partitions(OneNode(redis), store, [PARTITION])
        assert (await store.read_partitions(), await names(redis)) == (rows, everything)
        return found.action, found.unrecorded

    assert await verdict() == (Action.SERVE, LEFT)
    await redis.delete(keys.meta(PARTITION))
    assert await verdict() == (Action.SET_EPOCH, LEFT)
    await redis.hset(keys.meta(PARTITION), "epoch", "7")
    assert await verdict() == (Action.REFUSE, LEFT)
    await redis.hset(keys.meta(PARTITION), "epoch", "1")
    await redis.delete(keys.outbox(PARTITION, 1))
    assert await verdict() == (Action.REBUILD, 0)
    await live.commit("w", USD=1)
    assert await verdict() == (Action.REBUILD, 1)
    assert await store.bump_epoch(PARTITION, 1) == 2
    assert (await verdict())[0] is Action.FINISH
    await open_partitions(OneNode(redis), store, PARTITIONS)
    assert await verdict() == (Action.SERVE, 0)
