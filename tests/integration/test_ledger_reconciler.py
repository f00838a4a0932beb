"""The comparison that goes on in the background."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from drawdown_server.errors import StoreUnavailableError
from drawdown_server.holds.keys import partition_of
from drawdown_server.ledger import reconcile, reconciler
from drawdown_server.ledger.reconciler import Reconciler
from integration.server import until
from ledgers import PARTITIONS, TENANT, Live, make_flusher, open_redis, open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

    from drawdown_server.ledger.store import LedgerStore
    from drawdown_server.ledger.wallets import WalletPlace

WALLETS = [f"w{number}" for number in range(8)]
EVERY = range(PARTITIONS)


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
    monkeypatch.setattr(reconcile, "GRACE_S", 0.0)
    monkeypatch.setattr(reconciler, "PAGE", 3)
    live = Live(redis, store)
    for wallet_id in WALLETS:
        await live.create_wallet(wallet_id, USD=100)
        await live.commit(wallet_id, USD=1)
    assert await make_flusher(redis, store).drain(10)
    return live


async def test_a_pass_counts_what_it_compared_and_logs_each_difference(live: Live, store: LedgerStore) -> None:
    background = Reconciler(live, store, lambda: EVERY, interval_s=0.001)
    assert await background.run_once(asyncio.Event()) == 0
    assert (background.wallets_total, background.differences, background.differences_total) == (len(WALLETS), 0, 0)
    first_s = background.last_run_s
    assert first_s > 0
    live.wallets["w3"].grants["g-USD"] = ("USD", 42)
    with capture_logs() as logs:
        assert await background.run_once(asyncio.Event()) == 2
    errors = [line for line in logs if line["log_level"] == "error"]
    assert [(line["wallet_id"], line["what"], line["valkey"], line["postgres"]) for line in errors] == [
        ("w3", "settled units", "42", "99"),
        ("w3", "remaining units of grant g-USD", "42", "99"),
    ]
    assert (background.wallets_total, background.differences, background.differences_total) == (2 * len(WALLETS), 2, 2)
    assert background.last_run_s > first_s


async def test_each_wallet_is_compared_by_the_owner_of_its_partition(live: Live, store: LedgerStore) -> None:
    counts = []
    for owned in ([0, 1], [2, 3], []):
        background = Reconciler(live, store, lambda owned=owned: owned, interval_s=1)  # type: ignore[misc]
        await background.run_once(asyncio.Event())
        counts.append(background.wallets_total)
    expected = sum(partition_of(TENANT, wallet_id, PARTITIONS) < 2 for wallet_id in WALLETS)
    assert counts == [expected, len(WALLETS) - expected, 0]


async def test_it_runs_again_and_again_until_it_is_stopped(live: Live, store: LedgerStore) -> None:
    background = Reconciler(live, store, lambda: EVERY, interval_s=0.001)
    stop = asyncio.Event()
    running = asyncio.create_task(background.run(stop))

    async def passes() -> bool:
        return background.wallets_total >= 2 * len(WALLETS)

    await until(passes)
    stop.set()
    await asyncio.wait_for(running, 10)
    assert background.differences_total == 0


async def test_the_first_pass_does_not_wait_for_the_interval_nor_does_one_after_an_interrupted_one(
    live: Live, store: LedgerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is restarted more often than every interval compares all the same."""
    monkeypatch.setattr(reconciler, "SOON_S", 0.001)
    background = Reconciler(live, store, lambda: EVERY, interval_s=86_400)
    lost = [StoreUnavailableError("postgres")]
    list_wallets = store.list_all_wallets

    async def list_wallets_at_the_second_try(after: tuple[str, str], limit: int) -> list[WalletPlace]:
        if lost:
            raise lost.pop()
        return await list_wallets(after, limit)

    monkeypatch.setattr(store, "list_all_wallets", list_wallets_at_the_second_try)
    stop = asyncio.Event()
    running = asyncio.create_task(background.run(stop))

    async def has_passed() -> bool:
        return background.last_run_s > 0

    await until(has_passed)
    assert not lost
    assert background.wallets_total == len(WALLETS)
    stop.set()
    await asyncio.wait_for(running, 10)
