from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest

from drawdown_server.config import Config
from drawdown_server.errors import DrawdownError, ErrorReason, StoreUnavailableError
from drawdown_server.holds.messages import CapUsage, GrantChange
from drawdown_server.holds.model import (
    UNITS_MAX,
    Cap,
    CapMode,
    CapWindow,
    GrantSource,
    OveragePolicy,
    WalletState,
)
from drawdown_server.ledger import caps, grants
from drawdown_server.ledger.database import open_pool
from drawdown_server.ledger.events import Line, LineKind
from drawdown_server.ledger.partitions import PartitionCountError
from ledgers import PARTITIONS, TENANT, Live, commit_event, create_grant, make_flusher, open_redis, open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from drawdown_server.ledger.store import LedgerStore


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[LedgerStore]:
    async with open_store(postgres_url) as store:
        yield store


@pytest.fixture
async def wallet(store: LedgerStore) -> str:
    await store.create_asset(TENANT, "USD", 6, "US dollar", OveragePolicy.REJECT)
    await store.create_asset(TENANT, "EUR", 2, "Euro", OveragePolicy.REJECT)
    await store.create_wallet(TENANT, "w", 1, "Acme", {"tier": "gold"})
    return "w"


async def test_an_asset_is_created_once_and_found_again(store: LedgerStore) -> None:
    row, created = await store.create_asset(TENANT, "USD", 6, "US dollar", OveragePolicy.CHARGE_FULL)
    again, created_again = await store.create_asset(TENANT, "USD", 2, "other", OveragePolicy.REJECT)
    assert (created, created_again) == (True, False)
    assert again == row == await store.get_asset(TENANT, "USD")
    assert (row.scale, row.default_overage_policy) == (6, OveragePolicy.CHARGE_FULL)
    assert await store.get_asset("other tenant", "USD") is None


async def test_lists_are_pages_by_key(store: LedgerStore) -> None:
    for name in ("C", "A", "B"):
        await store.create_asset(TENANT, name, 0, "", OveragePolicy.REJECT)
        await store.create_wallet(TENANT, name, 0, "", {})
    assert [row.asset for row in await store.list_assets(TENANT, "", 2)] == ["A", "B"]
    assert [row.asset for row in await store.list_assets(TENANT, "B", 2)] == ["C"]
    assert [row.wallet_id for row in await store.list_wallets(TENANT, "", 2)] == ["A", "B"]
    assert [row.wallet_id for row in await store.list_wallets(TENANT, "B", 2)] == ["C"]
    assert await store.list_wallets("other", "", 2) == []


async def test_a_wallet_is_created_once_even_by_many_at_once(store: LedgerStore) -> None:
    results = await asyncio.gather(*(store.create_wallet(TENANT, "w", 3, f"name {n}", {"n": str(n)}) for n in range(8)))
    assert sorted(created for _, created in results) == [False] * 7 + [True]
    assert {row.display_name for row, _ in results} == {results[0][0].display_name}
    row = await store.get_wallet(TENANT, "w")
    assert row is not None
    assert (row.partition, row.state, row.change_number, row.sequence) == (3, WalletState.ACTIVE, 0, 0)


async def test_a_grant_is_one_numbered_change(store: LedgerStore, wallet: str) -> None:
    row, created = await store.create_grant(
        TENANT,
        wallet,
        "g1",
        asset="USD",
        units=UNITS_MAX,
        priority=-5,
        source=GrantSource.PROMOTION,
        effective_ms=1_800_000_000_001,
        expire_ms=1_900_000_000_999,
        labels={"invoice": "7"},
    )
    assert created
    assert row == await store.get_grant(TENANT, wallet, "g1")
    assert (row.effective_ms, row.expire_ms, row.labels) == (1_800_000_000_001, 1_900_000_000_999, {"invoice": "7"})
    assert (row.units, row.remaining_units, row.change_number) == (UNITS_MAX, UNITS_MAX, 1)
    (change,) = await store.pending_changes(TENANT, wallet, 0, 10)
    assert (change.change.kind, change.change_number) == ("GRANT", 1)
    assert change.change.grant == GrantChange(
        grant_id="g1",
        asset="USD",
        units=UNITS_MAX,
        priority=-5,
        source=GrantSource.PROMOTION,
        effective_ms=1_800_000_000_001,
        expire_ms=1_900_000_000_999,
        create_ms=row.create_ms,
        labels='{"invoice":"7"}',
    )


async def test_the_same_grant_twice_is_one_grant(store: LedgerStore, wallet: str) -> None:
    rows = await asyncio.gather(*(create_grant(store, wallet, "g1", "USD", 10 + n) for n in range(8)))
    assert len(set(map(repr, rows))) == 1
    found = await store.get_wallet(TENANT, wallet)
    assert found is not None
    assert found.change_number == 1


async def test_racing_grants_get_gapless_numbers(store: LedgerStore, wallet: str) -> None:
    rows = await asyncio.gather(*(create_grant(store, wallet, f"g{n}", "USD", 1) for n in range(20)))
    assert sorted(row.change_number for row in rows) == list(range(1, 21))
    listed = await store.list_grants(TENANT, wallet, limit=100)
    assert [row.change_number for row in listed] == list(range(1, 21))
    assert [row.change_number for row in await store.list_grants(TENANT, wallet, after_change_number=18, limit=5)] == [
        19,
        20,
    ]
    assert await store.list_grants(TENANT, wallet, asset="EUR", limit=5) == []


async def test_racing_grants_cannot_pass_the_range_together(store: LedgerStore, wallet: str) -> None:
    half = UNITS_MAX // 2 + 1
    outcomes = await asyncio.gather(
        *(create_grant(store, wallet, f"g{n}", "USD", half) for n in range(6)), return_exceptions=True
    )
    errors = [outcome for outcome in outcomes if isinstance(outcome, DrawdownError)]
    assert len(errors) == 5
    assert {error.reason for error in errors} == {ErrorReason.BALANCE_OUT_OF_RANGE}
    assert errors[0].metadata["asset"] == "USD"
    await create_grant(store, wallet, "other", "EUR", UNITS_MAX)


async def test_a_wallet_has_a_limit_of_live_grants(
    store: LedgerStore, wallet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grants, "GRANTS_MAX", 3)
    outcomes = await asyncio.gather(
        *(create_grant(store, wallet, f"g{n}", "USD", 1) for n in range(5)), return_exceptions=True
    )
    errors = [outcome for outcome in outcomes if isinstance(outcome, DrawdownError)]
    assert [error.reason for error in errors] == [ErrorReason.TOO_MANY_GRANTS] * 2
    assert errors[0].metadata == {"asset": "USD", "limit": "3"}
    # A grant that is there already is answered, whatever the limit says.
    known = next(outcome for outcome in outcomes if not isinstance(outcome, BaseException))
    assert (await create_grant(store, wallet, known.grant_id, "USD", 1)) == known


@pytest.mark.parametrize(
    ("wallet_id", "asset", "reason"),
    [("nobody", "USD", ErrorReason.WALLET_NOT_FOUND), ("w", "GBP", ErrorReason.ASSET_NOT_FOUND)],
)
async def test_a_grant_needs_its_wallet_and_its_asset(
    store: LedgerStore, wallet: str, wallet_id: str, asset: str, reason: ErrorReason
) -> None:
    with pytest.raises(DrawdownError) as caught:
        await create_grant(store, wallet_id, "g", asset, 1)
    assert caught.value.reason is reason
    found = await store.get_wallet(TENANT, wallet)
    assert found is not None
    assert found.change_number == 0


async def test_states_are_changes_too_and_closed_is_for_good(store: LedgerStore, wallet: str) -> None:
    row, changed = await store.set_wallet_state(TENANT, wallet, WalletState.FROZEN, "chargeback")
    assert (row.state, row.change_number, changed) == (WalletState.FROZEN, 1, True)
    row, changed = await store.set_wallet_state(TENANT, wallet, WalletState.FROZEN, "again")
    assert (row.change_number, changed) == (1, False)
    await create_grant(store, wallet, "g", "USD", 1)  # a frozen wallet takes money
    row, changed = await store.set_wallet_state(TENANT, wallet, WalletState.CLOSED, "left")
    assert (row.change_number, changed) == (3, True)
    changes = await store.pending_changes(TENANT, wallet, 1, 10)
    assert [(c.change_number, c.change.kind, c.change.state, c.reason) for c in changes] == [
        (2, "GRANT", None, ""),
        (3, "STATE", WalletState.CLOSED, "left"),
    ]
    for attempt in (
        store.set_wallet_state(TENANT, wallet, WalletState.ACTIVE, ""),
        create_grant(store, wallet, "g2", "USD", 1),
    ):
        with pytest.raises(DrawdownError) as caught:
            await attempt
        assert caught.value.reason is ErrorReason.WALLET_CLOSED
    with pytest.raises(DrawdownError) as caught:
        await store.set_wallet_state(TENANT, "nobody", WalletState.ACTIVE, "")
    assert caught.value.reason is ErrorReason.WALLET_NOT_FOUND


async def test_a_load_brings_the_wallet_as_recorded_and_what_is_pending(store: LedgerStore, valkey_url: str) -> None:
    async with open_redis(valkey_url) as redis:
        live = Live(redis, store)
        await live.create_wallet("w", USD=100, EUR=5)
        await live.commit("w", USD=30, EUR=5)
        await store.set_wallet_state(TENANT, "w", WalletState.FROZEN, "")
        await live.change_state("w", 3, WalletState.FROZEN)
        await make_flusher(redis, store).run_once()
    await create_grant(store, "w", "late", "USD", 50)
    await store.set_wallet_state(TENANT, "w", WalletState.ACTIVE, "")
    snapshot = await store.load_wallet(TENANT, "w")
    assert snapshot is not None
    row = snapshot.wallet
    assert (row.sequence, row.applied_change_number, row.change_number, row.state) == (4, 3, 5, WalletState.ACTIVE)
    assert snapshot.applied_state is WalletState.FROZEN
    assert [(g.grant_id, g.remaining_units) for g in snapshot.grants] == [("g-USD", 70)]
    assert [(b.asset, b.settled_units, b.granted_units, b.debited_units) for b in snapshot.balances] == [
        ("EUR", 0, 5, 5),
        ("USD", 70, 100, 30),
    ]
    assert [c.change_number for c in snapshot.pending] == [4, 5]
    assert snapshot.pending[0].change.grant is not None
    assert snapshot.pending[0].change.grant.grant_id == "late"
    assert snapshot.pending[1].change.state is WalletState.ACTIVE
    assert await store.load_wallet(TENANT, "nobody") is None


async def test_wallets_with_pending_changes_are_found(store: LedgerStore, wallet: str) -> None:
    assert await store.list_wallets_with_pending_changes(0, 10, range(PARTITIONS)) == []
    await create_grant(store, wallet, "g", "USD", 1)
    assert await store.list_wallets_with_pending_changes(0, 10, range(PARTITIONS)) == [(TENANT, wallet)]
    assert await store.list_wallets_with_pending_changes(3600, 10, range(PARTITIONS)) == []
    each = [await store.list_wallets_with_pending_changes(0, 10, [partition]) for partition in range(PARTITIONS)]
    assert sorted(each) == [[]] * (PARTITIONS - 1) + [[(TENANT, wallet)]]


async def test_another_number_of_partitions_is_refused(store: LedgerStore) -> None:
    await store.ensure_partitions(PARTITIONS)
    with pytest.raises(PartitionCountError, match=r"has 4 partitions.*configured with 8.*DRAWDOWN_PARTITIONS=4"):
        await store.ensure_partitions(8)
    assert [row.partition for row in await store.read_partitions()] == [0, 1, 2, 3]


async def test_an_epoch_is_bumped_once(store: LedgerStore) -> None:
    bumps = await asyncio.gather(*(store.bump_epoch(2, 1) for _ in range(5)))
    assert sorted(bumps, key=str) == [2, None, None, None, None]
    row = await store.read_partition(2)
    assert row is not None
    assert (row.epoch, row.opened, row.position) == (2, False, "0-0")


async def test_entries_and_settled_holds_are_read_back(store: LedgerStore, valkey_url: str) -> None:
    async with open_redis(valkey_url) as redis:
        live = Live(redis, store)
        await live.create_wallet("w", USD=100, EUR=100)
        await live.commit("w", USD=1, EUR=2)
        await live.commit("w", EUR=3)
        await make_flusher(redis, store).run_once()
    entries = await store.list_entries(TENANT, "w", limit=10)
    assert [(e.wallet_sequence, e.line, e.kind.value, e.asset, e.units) for e in entries] == [
        (1, 1, "GRANT", "USD", 100),
        (2, 1, "GRANT", "EUR", 100),
        (3, 1, "DEBIT", "USD", 1),
        (3, 2, "DEBIT", "EUR", 2),
        (4, 1, "DEBIT", "EUR", 3),
    ]
    assert await store.list_entries(TENANT, "w", after=(3, 1), limit=1) == entries[3:4]
    assert await store.list_entries(TENANT, "w", asset="EUR", limit=10) == [entries[1], entries[3], entries[4]]
    assert await store.list_entries(TENANT, "w", hold_id="hold-3", limit=10) == entries[2:4]
    assert await store.list_entries(TENANT, "w", hold_id="hold-3", asset="EUR", limit=10) == entries[3:4]
    hold = await store.get_settled_hold(TENANT, "w", "hold-3")
    assert hold is not None
    assert [(a.asset, a.authorized, a.debited) for a in hold.amounts] == [("USD", 6, 1), ("EUR", 7, 2)]
    assert (hold.wallet_sequence, hold.subjects, hold.late) == (3, ["key:sk_1", "model:m"], False)
    assert await store.get_settled_hold(TENANT, "w", "hold-9") is None


async def test_a_store_that_is_gone_is_unavailable_and_says_nothing_of_the_driver(postgres_url: str) -> None:
    async with open_store(postgres_url) as store:
        pass
    with pytest.raises(StoreUnavailableError, match=r"^postgres cannot be reached$"):
        await store.get_wallet(TENANT, "w")
    with pytest.raises(StoreUnavailableError):
        async with open_pool(Config(postgres_url="postgresql://127.0.0.1:1/nowhere")):
            pass


async def test_a_statement_that_takes_too_long_is_unavailable(postgres_url: str) -> None:
    config = Config(postgres_url=postgres_url, postgres_timeout_ms=50)
    async with open_store(postgres_url) as store, open_pool(config) as pool:
        await store.create_wallet(TENANT, "w", 0, "", {})
        async with store._transaction() as connection:
            await connection.fetch("SELECT 1 FROM wallets WHERE wallet_id = 'w' FOR UPDATE")
            with pytest.raises(StoreUnavailableError):
                await type(store)(pool).set_wallet_state(TENANT, "w", WalletState.FROZEN, "")
        await type(store)(pool).set_wallet_state(TENANT, "w", WalletState.FROZEN, "")


async def test_a_wallet_has_a_limit_of_caps(store: LedgerStore, wallet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caps, "CAPS_MAX", 3)
    wanted = [Cap(f"key:{n}", "USD", CapWindow.DAY, n, CapMode.ENFORCE) for n in range(5)]
    outcomes = await asyncio.gather(*(store.set_cap(TENANT, wallet, cap) for cap in wanted), return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, DrawdownError)]
    assert [(error.reason, error.metadata) for error in errors] == [(ErrorReason.TOO_MANY_CAPS, {"limit": "3"})] * 2
    first, *_ = await store.list_caps(TENANT, wallet)
    changed = msgspec.structs.replace(first, limit=99)
    assert await store.set_cap(TENANT, wallet, changed), "one that is there may be changed"
    assert not await store.set_cap(TENANT, wallet, changed)
    assert await store.remove_cap(TENANT, wallet, subject=first.subject, asset="USD", window=CapWindow.DAY)
    assert not await store.remove_cap(TENANT, wallet, subject=first.subject, asset="USD", window=CapWindow.DAY)
    assert len(await store.list_caps(TENANT, wallet)) == 2


async def test_what_there_is_and_what_may_be_owed_stay_exact_together(store: LedgerStore, wallet: str) -> None:
    await create_grant(store, wallet, "g", "USD", UNITS_MAX - 10)
    await store.set_overdraft_limit(TENANT, wallet, "USD", 10, "")
    for refused in (
        store.set_overdraft_limit(TENANT, wallet, "USD", 11, ""),
        create_grant(store, wallet, "more", "USD", 1),
    ):
        with pytest.raises(DrawdownError) as caught:
            await refused
        assert caught.value.reason is ErrorReason.BALANCE_OUT_OF_RANGE
    await store.set_overdraft_limit(TENANT, wallet, "USD", 9, "")
    await create_grant(store, wallet, "more", "USD", 1)


@pytest.mark.parametrize("closed", [False, True])
async def test_changes_of_what_is_not_there_or_closed_are_refused(
    store: LedgerStore,
    wallet: str,
    closed: bool,
) -> None:
    await create_grant(store, wallet, "g", "USD", 1)
    if closed:
        await store.set_wallet_state(TENANT, wallet, WalletState.CLOSED, "")
    cap = Cap("", "USD", CapWindow.DAY, 1, CapMode.ENFORCE)
    wallet_id = wallet if closed else "nobody"
    expected = ErrorReason.WALLET_CLOSED if closed else ErrorReason.WALLET_NOT_FOUND
    refusals = [
        (store.void_grant(TENANT, wallet_id, "g", ""), expected),
        (store.set_grant_expiry(TENANT, wallet_id, "g", 1, ""), expected),
        (store.set_overdraft_limit(TENANT, wallet_id, "USD", 1, ""), expected),
        (store.set_cap(TENANT, wallet_id, cap), expected),
        (store.void_grant(TENANT, wallet, "unknown", ""), ErrorReason.GRANT_NOT_FOUND),
        (store.set_overdraft_limit(TENANT, wallet, "GBP", 1, ""), ErrorReason.ASSET_NOT_FOUND),
    ]
    for refused, reason in refusals:
        with pytest.raises(DrawdownError) as caught:
            await refused
        assert caught.value.reason is reason
    found = await store.get_wallet(TENANT, wallet)
    assert found is not None
    assert found.change_number == 1 + closed


async def test_a_state_is_set_only_if_nothing_changed_since(store: LedgerStore, wallet: str) -> None:
    row, _ = await store.set_wallet_state(TENANT, wallet, WalletState.FROZEN, "")
    await create_grant(store, wallet, "g", "USD", 1)
    late, changed = await store.set_wallet_state(
        TENANT, wallet, WalletState.CLOSED, "", seen_change_number=row.change_number
    )
    assert (late.state, changed) == (WalletState.FROZEN, False)
    _, changed = await store.set_wallet_state(TENANT, wallet, WalletState.CLOSED, "", seen_change_number=2)
    assert changed


async def test_counters_whose_window_ended_are_left_out_and_forgotten(store: LedgerStore, valkey_url: str) -> None:
    async with open_redis(valkey_url) as redis:
        live = Live(redis, store)
        await live.create_wallet("w", USD=100)
        usage = {"|USD|LIFETIME|0": 3, "|USD|DAY|20000": 3, "|USD|MONTH|30000": 3}
        for sequence in (2, 3):
            line = Line(LineKind.DEBIT, "USD", 3, "g-USD")
            await live.emit(commit_event("w", sequence, [line], cap_usage=usage))
        await make_flusher(redis, store).run_once()
    snapshot = await store.load_wallet(TENANT, "w")
    assert snapshot is not None
    assert snapshot.cap_usage == [CapUsage("|USD|LIFETIME|0", 6), CapUsage("|USD|MONTH|30000", 6)]
    assert await store.forget_cap_usage(10) == 1
    assert await store.forget_cap_usage(10) == 0


async def test_a_closing_freezes_until_it_is_undone(store: LedgerStore, wallet: str) -> None:
    frozen = await store.begin_closing(TENANT, wallet, "")
    assert (frozen.state, frozen.change_number) == (WalletState.FROZEN, 1)
    assert await store.begin_closing(TENANT, wallet, "") == frozen  # taken over
    assert await store.list_abandoned_closings(0, 10) == [(TENANT, wallet)]
    assert await store.list_abandoned_closings(60, 10) == []
    assert await store.undo_closing(TENANT, wallet, "")
    assert not await store.undo_closing(TENANT, wallet, "")
    assert [change.change.state for change in await store.pending_changes(TENANT, wallet, 0, 9)] == ["FROZEN", "ACTIVE"]


@pytest.mark.parametrize("state", WalletState)
async def test_whoever_sets_the_state_during_a_closing_has_decided_it(
    store: LedgerStore, wallet: str, state: WalletState
) -> None:
    begun = await store.begin_closing(TENANT, wallet, "")
    row, changed = await store.set_wallet_state(TENANT, wallet, state, "an operator")
    assert (row.state, row.change_number, changed) == (state, 2, True)
    assert await store.list_abandoned_closings(0, 10) == []
    assert not await store.undo_closing(TENANT, wallet, "")
    late, closed = await store.set_wallet_state(
        TENANT, wallet, WalletState.CLOSED, "", seen_change_number=begun.change_number
    )
    assert (late.state, closed) == (state, False)


async def test_a_wallet_that_an_operator_froze_stays_frozen_when_it_is_not_closed(
    store: LedgerStore, wallet: str
) -> None:
    await store.set_wallet_state(TENANT, wallet, WalletState.FROZEN, "")
    await store.begin_closing(TENANT, wallet, "")
    assert not await store.undo_closing(TENANT, wallet, "")
    assert await store.list_abandoned_closings(0, 10) == []
