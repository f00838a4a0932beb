"""How a flusher batches: much at once when there is much, at once when there is little."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from drawdown_server.errors import StoreUnavailableError
from drawdown_server.holds.keys import partition_of
from drawdown_server.ledger import lanes as module
from ledgers import PARTITIONS, TENANT, Live, make_flusher, open_redis, open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from redis.asyncio import Redis

    from drawdown_server.ledger.posting import OutboxEvent
    from drawdown_server.ledger.recording import Move
    from drawdown_server.ledger.rows import DeadLetterRow
    from drawdown_server.ledger.store import LedgerStore

WALLETS = [f"w{number}" for number in range(8)]
LANE_EVENTS_MIN = 4


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[LedgerStore]:
    async with open_store(postgres_url) as store:
        yield store


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    async with open_redis(valkey_url) as redis:
        yield redis


@pytest.fixture
async def live(store: LedgerStore, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> Live:
    """Wallets in every partition; their grants are recorded."""
    assert {partition_of(TENANT, wallet, PARTITIONS) for wallet in WALLETS} == set(range(PARTITIONS))
    live = Live(redis, store)
    for wallet in WALLETS:
        await live.create_wallet(wallet, USD=1000)
    assert await make_flusher(redis, store).drain(10)
    monkeypatch.setattr(module, "LANE_EVENTS_MIN", LANE_EVENTS_MIN)
    return live


async def sequences(store: LedgerStore) -> list[int]:
    rows = [await store.get_wallet(TENANT, wallet) for wallet in WALLETS]
    return [row.sequence for row in rows if row is not None]


async def test_little_is_one_transaction_as_soon_as_it_is_there(store: LedgerStore, redis: Redis, live: Live) -> None:
    flusher = make_flusher(redis, store, linger_ms=1_000_000)
    for number in range(1, 4):
        await live.commit(WALLETS[0], USD=1)
        assert await flusher.run_once() == 1, "nothing waits for more to come"
        assert (flusher.batches_total, flusher.last_batch_size) == (number, 1)


async def test_a_backlog_is_recorded_in_two_transactions_of_partitions_of_their_own(
    store: LedgerStore, redis: Redis, live: Live
) -> None:
    for _ in range(5):
        for wallet in WALLETS:
            await live.commit(wallet, USD=1)
    flusher = make_flusher(redis, store, batch_max=1000)
    assert await flusher.run_once() == 40
    assert flusher.batches_total == 2
    assert await sequences(store) == [6] * len(WALLETS)
    assert await flusher.run_once() == 0


async def test_one_hot_partition_is_one_transaction(store: LedgerStore, redis: Redis, live: Live) -> None:
    for _ in range(20):
        await live.commit(WALLETS[0], USD=1)
    flusher = make_flusher(redis, store, batch_max=1000)
    assert await flusher.run_once() == 20
    assert flusher.batches_total == 1


async def test_when_one_of_two_transactions_fails_the_other_counts_and_nothing_is_recorded_twice(
    store: LedgerStore, redis: Redis, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        for wallet in WALLETS:
            await live.commit(wallet, USD=1)
    flusher = make_flusher(redis, store, batch_max=1000)
    record, calls = store.record, 0

    async def second_fails(moves: Sequence[Move], events: Sequence[OutboxEvent]) -> list[DeadLetterRow]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise StoreUnavailableError("postgres")
        return await record(moves, events)

    with monkeypatch.context() as patch:
        patch.setattr(store, "record", second_fails)
        with pytest.raises(StoreUnavailableError):
            await flusher.run_once()
    assert sorted(set(await sequences(store))) == [1, 6], "the first is whole, nothing of the second is there"
    while await flusher.run_once():
        pass
    assert await sequences(store) == [6] * len(WALLETS)
    assert await store.list_dead_letters(limit=1) == []


async def test_a_flusher_beside_another_valkey_than_the_one_that_is_served_gets_no_leases(
    store: LedgerStore, redis: Redis, live: Live
) -> None:
    await live.commit(WALLETS[0], USD=1)
    flusher = make_flusher(redis, store)
    flusher._run_id = lambda: "mine"
    assert await flusher.run_once() == 1
    await store.claim_store("server", "another")
    await live.commit(WALLETS[0], USD=1)
    flusher._lease_due = 0.0
    assert (await flusher.run_once(), flusher.owned_partitions) == (0, [])
    await store.drop_claim("server")
    flusher._lease_due = 0.0
    assert await flusher.run_once() == 1
