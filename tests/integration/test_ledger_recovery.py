from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest

from drawdown_server.holds.keys import meta, outbox, partition_of
from drawdown_server.holds.nodes import OneNode
from drawdown_server.ledger import streams
from drawdown_server.ledger.posting import read_event
from drawdown_server.ledger.recording import FencedError, Move
from drawdown_server.ledger.recovery import LedgerBehindError, open_partitions
from ledgers import PARTITIONS, TENANT, Live, make_flusher, open_redis, open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

    from drawdown_server.dev.valkey import ValkeyProcess
    from drawdown_server.ledger.rows import PartitionRow
    from drawdown_server.ledger.store import LedgerStore

PARTITION = partition_of(TENANT, "w", PARTITIONS)
FRESH = [1] * PARTITIONS
BUMPED = [2 if partition == PARTITION else 1 for partition in range(PARTITIONS)]


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
    """An opened installation; two events of ``w`` are recorded."""
    assert await open_partitions(OneNode(redis), store, PARTITIONS) == FRESH
    live = Live(redis, store)
    await live.create_wallet("w", USD=100)
    await live.commit("w", USD=1)
    flusher = make_flusher(redis, store)
    await flusher.run_once()
    assert await flusher.drain(10)
    return live


async def epochs(redis: Redis) -> list[int]:
    return await streams.read_epochs(OneNode(redis), range(PARTITIONS))


async def back_to(admin: Redis, key: str, dump: bytes | None) -> None:
    """A backup of one key, restored."""
    assert dump is not None
    await admin.restore(key, 0, dump, replace=True)


async def test_a_fresh_installation_is_opened_once_by_many_servers(store: LedgerStore, redis: Redis) -> None:
    opened = await asyncio.gather(*(open_partitions(OneNode(redis), store, PARTITIONS) for _ in range(6)))
    assert opened == [FRESH] * 6
    assert await epochs(redis) == FRESH
    assert all(row.opened for row in await store.read_partitions())


async def test_a_restart_serves_what_is_there(store: LedgerStore, redis: Redis, live: Live) -> None:
    assert await open_partitions(OneNode(redis), store, PARTITIONS) == FRESH
    await live.commit("w", USD=1)  # not recorded yet
    assert await open_partitions(OneNode(redis), store, PARTITIONS) == FRESH
    assert await make_flusher(redis, store).run_once() == 1


async def test_a_restart_of_valkey_keeps_everything(
    store: LedgerStore, redis: Redis, live: Live, valkey_server: ValkeyProcess
) -> None:
    await live.commit("w", USD=1)
    await asyncio.to_thread(valkey_server.stop)
    await asyncio.to_thread(valkey_server.start)
    await redis.connection_pool.disconnect()
    assert await open_partitions(OneNode(redis), store, PARTITIONS) == FRESH


async def test_a_stream_that_was_emptied_keeps_its_last_id(store: LedgerStore, redis: Redis, live: Live) -> None:
    await redis.xtrim(outbox(PARTITION, live.epoch), maxlen=0, approximate=False)
    assert await open_partitions(OneNode(redis), store, PARTITIONS) == FRESH


@pytest.mark.usefixtures("live")
async def test_a_valkey_that_lost_everything_gets_new_epochs(store: LedgerStore, redis: Redis, admin: Redis) -> None:
    await admin.flushall()
    assert await open_partitions(OneNode(redis), store, PARTITIONS) == [2] * PARTITIONS
    assert await epochs(redis) == [2] * PARTITIONS
    rows = await store.read_partitions()
    assert {(row.epoch, row.opened, row.position) for row in rows} == {(2, True, "0-0")}
    assert await open_partitions(OneNode(redis), store, PARTITIONS) == [2] * PARTITIONS


async def test_many_servers_that_notice_a_loss_begin_one_epoch(store: LedgerStore, redis: Redis, live: Live) -> None:
    await redis.delete(outbox(PARTITION, live.epoch))
    opened = await asyncio.gather(*(open_partitions(OneNode(redis), store, PARTITIONS) for _ in range(6)))
    assert opened == [BUMPED] * 6
    assert await epochs(redis) == BUMPED


async def test_a_valkey_that_went_back_in_time_gets_a_new_epoch(
    store: LedgerStore, redis: Redis, admin: Redis, live: Live
) -> None:
    backup = await admin.dump(outbox(PARTITION, 1))
    await live.commit("w", USD=1)
    await make_flusher(redis, store).run_once()
    await back_to(admin, outbox(PARTITION, 1), backup)
    assert await open_partitions(OneNode(redis), store, PARTITIONS) == BUMPED


async def test_new_events_after_going_back_do_not_hide_it_and_are_kept_as_dead_letters(
    store: LedgerStore, redis: Redis, admin: Redis, live: Live
) -> None:
    """The last id alone is newer than the position again; the recorded event is what is missing."""
    backup = await admin.dump(outbox(PARTITION, 1))
    await live.commit("w", USD=1)
    await make_flusher(redis, store).run_once()
    await back_to(admin, outbox(PARTITION, 1), backup)
    live.wallets["w"].sequence = 2
    await live.commit("w", USD=5)
    assert await open_partitions(OneNode(redis), store, PARTITIONS) == BUMPED
    (letter,) = await store.list_dead_letters(limit=10)
    assert (letter.epoch, letter.wallet_id, letter.wallet_sequence) == (1, "w", 3)
    assert letter.error == "left behind in epoch 1, whose state in Valkey was lost"


async def test_a_lost_meta_key_alone_loses_no_event(store: LedgerStore, redis: Redis, live: Live) -> None:
    await live.commit("w", USD=1)
    await redis.delete(meta(PARTITION))
    assert await open_partitions(OneNode(redis), store, PARTITIONS) == FRESH
    assert await epochs(redis) == FRESH
    assert await make_flusher(redis, store).run_once() == 1


async def test_a_lost_meta_key_is_set_again_only_beside_the_recorded_event(redis: Redis, live: Live) -> None:
    """Everything else may be gone as well by the time that it is set."""
    key = outbox(PARTITION, live.epoch)
    position = (await streams.read_infos(OneNode(redis), [key]))[0].last_id
    await redis.delete(meta(PARTITION))
    assert await streams.raise_epoch(OneNode(redis), PARTITION, 1, beside=(key, "1-1")) == 0
    assert await streams.read_epochs(OneNode(redis), [PARTITION]) == [0]
    assert await streams.raise_epoch(OneNode(redis), PARTITION, 1, beside=(key, position)) == 1


async def test_what_a_flusher_read_before_a_server_verified_is_not_recorded(
    store: LedgerStore, redis: Redis, live: Live
) -> None:
    """It may come from a Valkey that is gone, and the one that is verified may lack it."""
    lease = (await store.lease_partitions("stopped", 60_000))[PARTITION]
    await live.commit("w", USD=1)
    ((stream_id, raw),) = await streams.range_after(OneNode(redis), outbox(PARTITION, 1), lease.position, 10)
    assert await open_partitions(OneNode(redis), store, PARTITIONS) == FRESH
    move = Move(PARTITION, 1, lease.lease_token, lease.position, stream_id)
    with pytest.raises(FencedError):
        await store.record([move], [read_event(PARTITION, 1, stream_id, raw)])
    renewed = (await store.lease_partitions("stopped", 60_000))[PARTITION]
    assert renewed.lease_token > lease.lease_token
    again = msgspec.structs.replace(move, lease_token=renewed.lease_token)
    assert await store.record([again], [read_event(PARTITION, 1, stream_id, raw)]) == []


@pytest.mark.usefixtures("live")
async def test_a_server_that_crashed_before_it_set_the_epoch_is_finished(store: LedgerStore, redis: Redis) -> None:
    assert await store.bump_epoch(PARTITION, 1) == 2
    assert await open_partitions(OneNode(redis), store, PARTITIONS) == BUMPED
    assert await epochs(redis) == BUMPED


async def test_the_flusher_goes_on_in_the_new_epoch(store: LedgerStore, redis: Redis, live: Live) -> None:
    await redis.delete(outbox(PARTITION, 1))
    await open_partitions(OneNode(redis), store, PARTITIONS)
    snapshot = await store.load_wallet(TENANT, "w")
    assert snapshot is not None
    live.epoch = 2
    live.wallets["w"].sequence = snapshot.wallet.sequence
    live.wallets["w"].grants = {g.grant_id: (g.asset, g.remaining_units) for g in snapshot.grants}
    await live.commit("w", USD=9)
    flusher = make_flusher(redis, store)
    assert await flusher.run_once() == 1
    assert flusher.dead_letters_total == 0
    assert await open_partitions(OneNode(redis), store, PARTITIONS) == BUMPED


async def test_a_postgres_that_is_older_than_what_was_trimmed_is_refused(
    store: LedgerStore, redis: Redis, live: Live
) -> None:
    old = await store.read_partition(PARTITION)
    assert old is not None
    await live.commit("w", USD=1)
    await live.commit("w", USD=1)
    await make_flusher(redis, store).run_once()
    async with store._connection() as connection:
        await connection.execute("UPDATE partitions SET position = $1 WHERE partition = $2", old.position, PARTITION)
    with pytest.raises(LedgerBehindError, match="Postgres was restored from a backup"):
        await open_partitions(OneNode(redis), store, PARTITIONS)
    assert await epochs(redis) == FRESH


async def test_a_position_that_moved_during_the_look_is_no_old_postgres(
    store: LedgerStore, redis: Redis, admin: Redis, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flusher records and trims and Valkey goes back in time, between our read of Postgres and that of Valkey."""
    before = await store.read_partitions()
    await live.commit("w", USD=1)
    backup = await admin.dump(outbox(PARTITION, 1))
    await live.commit("w", USD=1)
    await make_flusher(redis, store).run_once()
    await back_to(admin, outbox(PARTITION, 1), backup)
    await redis.xtrim(outbox(PARTITION, 1), maxlen=0, approximate=False)
    reads, read = [before], store.read_partitions

    async def read_late() -> list[PartitionRow]:
        return reads.pop() if reads else await read()

    monkeypatch.setattr(store, "read_partitions", read_late)
    assert await open_partitions(OneNode(redis), store, PARTITIONS) == BUMPED


@pytest.mark.usefixtures("live")
async def test_a_postgres_of_an_older_epoch_is_refused(store: LedgerStore, redis: Redis) -> None:
    await redis.hset(meta(PARTITION), "epoch", "3")
    with pytest.raises(LedgerBehindError, match="Valkey is in epoch 3, Postgres in epoch 1"):
        await open_partitions(OneNode(redis), store, PARTITIONS)


async def test_opening_beside_a_busy_flusher_changes_nothing(store: LedgerStore, redis: Redis, live: Live) -> None:
    """The flusher moves positions and trims between our two reads."""
    flusher = make_flusher(redis, store, block_ms=1)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(flusher.run(stop))
        for _ in range(30):
            await live.commit("w", USD=1)
            assert await open_partitions(OneNode(redis), store, PARTITIONS) == FRESH
        await flusher.drained()
        stop.set()
    assert await store.list_dead_letters(limit=1) == []


async def test_an_epoch_in_valkey_never_shrinks(redis: Redis) -> None:
    raised = await asyncio.gather(*(streams.raise_epoch(OneNode(redis), 0, epoch) for epoch in (3, 1, 5, 2, 4)))
    assert max(raised) == 5
    assert await streams.read_epochs(OneNode(redis), [0]) == [5]
    assert await streams.raise_epoch(OneNode(redis), 0, 4) == 5
