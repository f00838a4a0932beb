"""A new epoch that somebody began and did not finish: whoever comes next does, and no event is lost or doubled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from drawdown_server.holds.keys import outbox, partition_of
from drawdown_server.holds.nodes import OneNode
from drawdown_server.ledger import salvage, streams
from drawdown_server.ledger.recovery import open_partitions
from ledgers import PARTITIONS, TENANT, Live, make_flusher, open_redis, open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

    from drawdown_server.ledger.store import LedgerStore

PARTITION = partition_of(TENANT, "w", PARTITIONS)
RECORDED = 2
LEFT = 7
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
async def live(store: LedgerStore, redis: Redis) -> Live:
    """An opened installation: of the events of ``w``, two are recorded and ``LEFT`` are not."""
    await open_partitions(OneNode(redis), store, PARTITIONS)
    live = Live(redis, store)
    await live.create_wallet("w", USD=100)
    await live.commit("w", USD=1)
    flusher = make_flusher(redis, store)
    await flusher.run_once()
    assert await flusher.drain(10)
    for _ in range(LEFT):
        await live.commit("w", USD=1)
    return live


def epochs(epoch: int) -> list[int]:
    return [epoch if partition == PARTITION else 1 for partition in range(PARTITIONS)]


async def assert_finished(store: LedgerStore, redis: Redis, *, epoch: int = 2, left: int = LEFT) -> None:
    """The epoch is in force in both stores, and what the first one left behind is kept exactly once."""
    row = await store.read_partition(PARTITION)
    assert row is not None
    assert (row.epoch, row.opened, row.position) == (epoch, True, "0-0")
    assert (row.left_epoch, row.left_position) == (0, "0-0")
    assert await streams.read_epochs(OneNode(redis), range(PARTITIONS)) == epochs(epoch)
    letters = await store.list_dead_letters(limit=100)
    assert [letter.wallet_sequence for letter in letters] == list(range(RECORDED + 1, RECORDED + 1 + left))
    assert {(letter.partition, letter.epoch, letter.wallet_id) for letter in letters} <= {(PARTITION, 1, "w")}


@pytest.mark.usefixtures("live")
async def test_a_server_that_died_after_the_bump_is_finished_by_the_next(store: LedgerStore, redis: Redis) -> None:
    assert await store.bump_epoch(PARTITION, 1) == 2
    assert await open_partitions(OneNode(redis), store, PARTITIONS) == epochs(2)
    await assert_finished(store, redis)
    assert await open_partitions(OneNode(redis), store, PARTITIONS) == epochs(2)
    await assert_finished(store, redis)


@pytest.mark.usefixtures("live")
async def test_a_server_that_died_before_the_salvage_is_finished_by_the_next(store: LedgerStore, redis: Redis) -> None:
    assert await store.bump_epoch(PARTITION, 1) == 2
    assert await streams.raise_epoch(OneNode(redis), PARTITION, 2) == 2
    assert await open_partitions(OneNode(redis), store, PARTITIONS) == epochs(2)
    await assert_finished(store, redis)


@pytest.mark.usefixtures("live")
async def test_a_server_that_died_within_the_salvage_is_finished_by_the_next(
    store: LedgerStore, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had copied the first pages, and had not said so yet."""
    monkeypatch.setattr(salvage, "SALVAGE_PAGE", 2)
    keep, pages = store.create_dead_letters, 0

    async def keep_two_pages(letters: list[object]) -> int:
        nonlocal pages
        pages += 1
        if pages > 2:
            raise ConnectionAbortedError
        return await keep(letters)  # type: ignore[arg-type]

    assert await store.bump_epoch(PARTITION, 1) == 2
    monkeypatch.setattr(store, "create_dead_letters", keep_two_pages)
    with pytest.raises(ConnectionAbortedError):
        await open_partitions(OneNode(redis), store, PARTITIONS)
    monkeypatch.setattr(store, "create_dead_letters", keep)
    assert len(await store.list_dead_letters(limit=100)) == 4
    assert await open_partitions(OneNode(redis), store, PARTITIONS) == epochs(2)
    await assert_finished(store, redis)


@pytest.mark.usefixtures("live")
async def test_what_was_added_before_the_fence_is_salvaged_too(store: LedgerStore, redis: Redis, live: Live) -> None:
    """Between the new epoch in Postgres and the one in Valkey, a server that knows neither still answers callers."""
    assert await store.bump_epoch(PARTITION, 1) == 2
    await live.commit("w", USD=1)
    assert await open_partitions(OneNode(redis), store, PARTITIONS) == epochs(2)
    await assert_finished(store, redis, left=LEFT + 1)


@pytest.mark.usefixtures("live")
async def test_many_servers_that_find_it_unfinished_finish_it_once(store: LedgerStore, redis: Redis) -> None:
    assert await store.bump_epoch(PARTITION, 1) == 2
    opened = await asyncio.gather(*(open_partitions(OneNode(redis), store, PARTITIONS) for _ in range(6)))
    assert opened == [epochs(2)] * 6
    await assert_finished(store, redis)


@pytest.mark.usefixtures("live")
async def test_no_further_epoch_begins_before_the_left_one_is_salvaged(store: LedgerStore, redis: Redis) -> None:
    """Exactly one left outbox is remembered: a second would make the first forgotten."""
    assert await store.bump_epoch(PARTITION, 1) == 2
    assert await store.bump_epoch(PARTITION, 2) is None
    assert await open_partitions(OneNode(redis), store, PARTITIONS) == epochs(2)
    assert await store.bump_epoch(PARTITION, 2) == 3
    assert await open_partitions(OneNode(redis), store, PARTITIONS) == epochs(3)
    await assert_finished(store, redis, epoch=3)


@pytest.mark.usefixtures("live")
async def test_an_outbox_that_is_lost_as_well_leaves_nothing_to_salvage(store: LedgerStore, redis: Redis) -> None:
    assert await store.bump_epoch(PARTITION, 1) == 2
    await redis.delete(outbox(PARTITION, 1))
    assert await open_partitions(OneNode(redis), store, PARTITIONS) == epochs(2)
    await assert_finished(store, redis, left=0)
