"""What waits for the ledger, as the metrics see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from drawdown_server.errors import StoreUnavailableError
from drawdown_server.holds.keys import outbox, partition_of
from drawdown_server.holds.nodes import OneNode
from drawdown_server.ledger import backlog, streams
from drawdown_server.ledger.backlog import Backlog
from ledgers import PARTITIONS, TENANT, Live, make_flusher, open_redis, open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

    from drawdown_server.ledger.rows import PartitionRow
    from drawdown_server.ledger.store import LedgerStore
    from drawdown_server.ledger.streams import StreamInfo


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
    """Two wallets in different partitions, funded, and nothing waits."""
    live = Live(redis, store)
    assert partition_of(TENANT, "w", PARTITIONS) != partition_of(TENANT, "v", PARTITIONS)
    for wallet_id in ("w", "v"):
        await live.create_wallet(wallet_id, USD=1_000_000, EUR=1_000_000)
    await drain(redis, store)
    return live


async def drain(redis: Redis, store: LedgerStore) -> None:
    flusher = make_flusher(redis, store)
    while await flusher.run_once():
        pass
    await flusher.drain(10)


async def test_an_outbox_that_is_recorded_has_nothing_that_waits(store: LedgerStore, redis: Redis, live: Live) -> None:
    look = Backlog(OneNode(redis), store)
    await look.run_once()
    assert (look.events, dict(look.units), look.age_s, look.dead_letters) == (0, {}, 0.0, 0)
    await live.commit("w", USD=5)
    await look.run_once()
    assert look.events == 1
    await drain(redis, store)
    await look.run_once()
    assert (look.events, dict(look.units), look.age_s) == (0, {}, 0.0)


async def test_events_units_and_age_are_summed_over_partitions(store: LedgerStore, redis: Redis, live: Live) -> None:
    await live.commit("w", USD=5, EUR=1)
    await live.commit("w", USD=6)
    await live.commit("v", USD=7)
    look = Backlog(OneNode(redis), store)
    await look.run_once()
    assert (look.events, dict(look.units)) == (3, {"USD": 18, "EUR": 1})
    first_age_s = look.age_s
    await look.run_once()
    assert look.age_s >= first_age_s >= 0


async def test_the_units_of_a_long_outbox_are_estimated_from_its_first_events(
    store: LedgerStore, redis: Redis, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "EVENTS_PER_PARTITION_MAX", 4)
    for units in (1, 2, 3, 4, 90, 90, 90, 90, 90, 90):
        await live.commit("w", USD=units)
    look = Backlog(OneNode(redis), store)
    await look.run_once()
    assert (look.events, dict(look.units)) == (10, {"USD": (1 + 2 + 3 + 4) * 10 // 4})


async def test_what_nobody_understands_waits_too_and_is_then_counted_as_a_dead_letter(
    store: LedgerStore, redis: Redis, live: Live
) -> None:
    await live.commit("w", USD=5)
    await redis.xadd(outbox(partition_of(TENANT, "w", PARTITIONS), 1), {b"x": b"y"})
    look = Backlog(OneNode(redis), store)
    await look.run_once()
    assert (look.events, dict(look.units), look.dead_letters) == (2, {"USD": 5}, 0)
    await drain(redis, store)
    await look.run_once()
    assert (look.events, look.dead_letters) == (0, 1)


async def test_without_postgres_what_waits_still_grows(
    store: LedgerStore, redis: Redis, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Backlog(OneNode(redis), store)
    await look.run_once()

    async def down() -> list[PartitionRow]:
        raise StoreUnavailableError("postgres")

    monkeypatch.setattr(store, "read_partitions", down)
    await live.commit("w", USD=5)
    with pytest.raises(StoreUnavailableError):
        await look.run_once()
    assert (look.events, dict(look.units)) == (1, {"USD": 5})


async def test_what_a_valkey_that_is_lost_had_last_stays_until_postgres_says_that_it_is_recorded(
    store: LedgerStore, redis: Redis, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Backlog(OneNode(redis), store)
    await live.commit("w", USD=5)
    await look.run_once()
    age_s = look.age_s

    async def down(*_: object) -> list[StreamInfo]:
        raise StoreUnavailableError("valkey")

    async def look_in_vain() -> None:
        with monkeypatch.context() as patch, pytest.raises(StoreUnavailableError):
            patch.setattr(streams, "read_infos", down)
            await look.run_once()

    await live.commit("w", USD=6)  # nobody sees this one
    await look_in_vain()
    assert (look.events, dict(look.units)) == (1, {"USD": 5})
    assert look.age_s > age_s, "it goes on waiting"
    await drain(redis, store)  # by a flusher that does reach it
    await look_in_vain()
    assert (look.events, dict(look.units), look.age_s) == (0, {}, 0.0)
