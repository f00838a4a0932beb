from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from drawdown_server.holds.model import WalletState
from drawdown_server.ledger.events import Line, LineKind
from drawdown_server.ledger.reconcile import reconcile, reconcile_wallet
from ledgers import TENANT, Live, commit_event, make_flusher, open_redis, open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

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


@pytest.fixture
async def live(store: LedgerStore, redis: Redis) -> Live:
    """Three wallets with usage, all recorded."""
    live = Live(redis, store)
    for wallet_id in ("a", "b", "c"):
        await live.create_wallet(wallet_id, USD=100, TOKENS=500)
        await live.grant(wallet_id, "second", "USD", 50)
        await live.commit(wallet_id, USD=120, TOKENS=1)
        await live.commit(wallet_id)
    flusher = make_flusher(redis, store)
    while await flusher.run_once():
        pass
    assert await flusher.drain(10)
    return live


async def differences(live: Live, store: LedgerStore) -> list[str]:
    report = await reconcile(live, store, TENANT, cut_timeout_s=0)
    assert report.clean == (not report.differences)
    return [str(difference) for difference in report.differences]


async def test_two_sides_that_agree(live: Live, store: LedgerStore) -> None:
    report = await reconcile(live, store, TENANT)
    assert (report.wallets, report.not_live, report.differences) == (3, 0, [])


async def test_a_wallet_that_is_not_in_valkey_is_checked_in_postgres_alone(live: Live, store: LedgerStore) -> None:
    del live.wallets["b"]
    report = await reconcile(live, store, TENANT)
    assert (report.wallets, report.not_live, report.clean) == (2, 1, True)


async def test_it_waits_for_events_that_are_on_their_way(live: Live, store: LedgerStore, redis: Redis) -> None:
    await live.commit("a", USD=1)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        checking = group.create_task(reconcile(live, store, TENANT, cut_timeout_s=30))
        group.create_task(make_flusher(redis, store).run(stop))
        report = await checking
        stop.set()
    assert report.clean


async def test_an_event_that_never_arrives_is_a_difference(live: Live, store: LedgerStore) -> None:
    await live.commit("a", USD=1)
    assert await differences(live, store) == [
        "wallet a: last ledger event (waited in vain): 6 in Valkey, 5 in Postgres"
    ]


async def test_planted_differences_in_valkey(live: Live, store: LedgerStore) -> None:
    live.wallets["a"].grants["second"] = ("USD", 31)
    live.wallets["b"].state = WalletState.FROZEN
    live.wallets["b"].change_number = 2
    del live.wallets["c"].grants["g-TOKENS"]
    live.wallets["c"].assets.remove("TOKENS")
    assert await differences(live, store) == [
        "wallet a USD: settled units: 31 in Valkey, 30 in Postgres",
        "wallet a USD: remaining units of grant second: 31 in Valkey, 30 in Postgres",
        "wallet b: last applied change: 2 in Valkey, 3 in Postgres",
        "wallet b: state: FROZEN in Valkey, ACTIVE in Postgres",
        "wallet c TOKENS: settled units: none in Valkey, 499 in Postgres",
        "wallet c TOKENS: remaining units of grant g-TOKENS: 0 in Valkey, 499 in Postgres",
    ]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            "UPDATE balances SET settled_units = 29, debited_units = 121 WHERE wallet_id = 'a' AND asset = 'USD'",
            ["entries add up to 30, the balance row says 29", "settled units: 30 in Valkey, 29 in Postgres"],
        ),
        (
            "UPDATE grants SET remaining_units = 29 WHERE wallet_id = 'a' AND grant_id = 'second'",
            ["entries leave 30 of grant second, its row says 29", "remaining units of grant second: 30"],
        ),
        (
            "UPDATE grants SET remaining_units = 1 WHERE wallet_id = 'a' AND grant_id = 'g-USD'",
            ["entries leave 0 of grant g-USD, its row says 1", "remaining units of grant g-USD: 0"],
        ),
        (
            "DELETE FROM entries WHERE wallet_id = 'a' AND wallet_sequence = 4 AND asset = 'TOKENS'",
            ["entries add up to 500, the balance row says 499", "entries leave 500 of grant g-TOKENS"],
        ),
        (
            "DELETE FROM balances WHERE wallet_id = 'a' AND asset = 'TOKENS'",
            ["entries add up to 499, there is no balance row", "settled units: 499 in Valkey, 0 in Postgres"],
        ),
        (
            "UPDATE wallets SET applied_change_number = 2 WHERE wallet_id = 'a'",
            ["last applied change: 3 in Valkey, 2 in Postgres"],
        ),
    ],
)
async def test_planted_differences_in_postgres(
    live: Live, store: LedgerStore, superuser_url: str, damage: str, expected: list[str]
) -> None:
    async with open_store(superuser_url) as damaged, damaged._connection() as connection:
        await connection.execute(damage)
    found = await differences(live, store)
    assert all(difference.startswith("wallet a") for difference in found)
    for part in expected:
        assert any(part in difference for difference in found), (part, found)


async def test_a_dead_letter_is_a_difference(live: Live, store: LedgerStore, redis: Redis) -> None:
    wallet = live.wallets["a"]
    wallet.sequence += 1
    await live.emit(commit_event("a", wallet.sequence, [Line(LineKind.DEBIT, "USD", 1, "unknown")]))
    await make_flusher(redis, store).run_once()
    assert await differences(live, store) == ["wallet a: events that could not be recorded: - in Valkey, 1 in Postgres"]


async def test_a_wallet_that_only_one_side_knows(live: Live, store: LedgerStore) -> None:
    live.wallets["ghost"] = live.wallets["a"]
    report = await reconcile_wallet(live, store, TENANT, "ghost")
    assert [str(difference) for difference in report.differences] == [
        "wallet ghost: exists: yes in Valkey, no in Postgres"
    ]
