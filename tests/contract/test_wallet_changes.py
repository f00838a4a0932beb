"""Load and apply: what comes from Postgres, in order and once; and the epoch that every verb checks first."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import pytest

from contract.wallets import CREATE_MS, TENANT, Wallet
from drawdown_server.errors import DrawdownError, ErrorReason, StoreUnavailableError
from drawdown_server.holds.messages import Change, GrantChange, LoadedAsset, PackedGrant
from drawdown_server.holds.model import UNITS_MAX, DenialReason, GrantSource, WalletState
from drawdown_server.ledger.events import EventKind, Line, LineKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from contract.wallets import Stage


def packed(grant_id: str, free: int, **properties: int) -> PackedGrant:
    return PackedGrant(
        grant_id=grant_id,
        free=free,
        pinned=0,
        priority=properties.get("priority", 0),
        expire_ms=properties.get("expire_ms", 0),
        source=GrantSource.PURCHASE,
        effective_ms=CREATE_MS,
        create_ms=CREATE_MS,
    )


def loaded(asset: str, *grants: PackedGrant, debt: int = 0, overdraft_limit: int = 0) -> LoadedAsset:
    return LoadedAsset(asset=asset, debt=debt, overdraft_limit=overdraft_limit, grants=list(grants), scheduled=[])


async def test_a_loaded_wallet_is_as_postgres_had_it(stage: Stage) -> None:
    wallet = stage.unloaded()
    assets = [
        loaded("USD", packed("slow", 5, priority=9), packed("fast", 7, priority=1)),
        loaded("TOKENS", packed("t", 1000)),
        loaded("GPU", debt=3, overdraft_limit=10),
    ]
    reply = await wallet.load(assets, state=WalletState.FROZEN, sequence=41, change_number=7)
    assert reply.loaded
    reading = await wallet.read()
    assert (reading.state, reading.sequence, reading.change_number, reading.open_holds) == ("FROZEN", 41, 7, 0)
    assert [(b.asset, b.settled, b.held, b.available, b.debt) for b in reading.balances] == [
        ("GPU", -3, 0, 7, 3),
        ("TOKENS", 1000, 0, 1000, 0),
        ("USD", 12, 0, 12, 0),
    ]
    assert list(await wallet.grants("USD")) == ["fast", "slow"]
    assert await wallet.events() == []
    await wallet.grant("USD", 1)
    assert [(e.wallet_sequence, e.change_number) for e in await wallet.events()] == [(42, 8)]


async def test_a_live_wallet_is_never_overwritten(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.hold("h1", USD=4)
    at_rest = await wallet.at_rest()
    for age_ms in (0, 60_000):
        reply = await wallet.load([loaded("USD", packed("g1", 10))], sequence=9, change_number=9, age_ms=age_ms)
        assert (reply.status, reply.loaded) == ("OK", False)
    assert await wallet.at_rest() == at_rest


async def test_an_old_ticket_loads_nothing(stage: Stage) -> None:
    wallet = stage.unloaded()
    at_rest = await wallet.at_rest()
    reply = await wallet.load([loaded("USD", packed("g1", 10))], age_ms=30_500)
    assert (reply.status, reply.loaded) == ("TICKET_EXPIRED", False)
    assert await wallet.at_rest() == at_rest
    assert (await wallet.load([loaded("USD", packed("g1", 10))], age_ms=29_000)).loaded


async def test_many_loads_at_once_are_one(stage: Stage) -> None:
    wallet = stage.unloaded()
    replies = await asyncio.gather(*(wallet.load([loaded("USD", packed("g1", 10))]) for _ in range(50)))
    assert sum(reply.loaded for reply in replies) == 1
    assert await wallet.available("USD") == 10


async def test_a_wallet_is_loaded_on_its_first_use_and_the_verb_then_runs(stage: Stage) -> None:
    wallet, loads = stage.unloaded(), list[str]()

    async def load(tenant_id: str, wallet_id: str) -> bool:
        assert tenant_id == TENANT
        loads.append(wallet_id)
        await wallet.load([loaded("USD", packed("g1", 10))])
        return True

    stage.store.on_missing_wallet(load)
    await wallet.hold("h1", USD=10)
    await wallet.commit("h1", USD=1)
    assert loads == ["w1"]


async def test_a_wallet_that_never_arrives_is_given_up(stage: Stage) -> None:
    async def pretend(_tenant_id: str, _wallet_id: str) -> bool:
        return True

    stage.store.on_missing_wallet(pretend)
    with pytest.raises(StoreUnavailableError):
        await stage.unloaded().authorize("h1", USD=1)


@pytest.mark.parametrize("verb", ["commit", "release", "read", "read_hold", "list_holds", "grant"])
async def test_an_unknown_wallet_is_an_error_of_every_other_verb(stage: Stage, verb: str) -> None:
    async def find_nothing(_tenant_id: str, _wallet_id: str) -> bool:
        return False

    stage.store.on_missing_wallet(find_nothing)
    with pytest.raises(DrawdownError) as missing:
        await VERBS[verb](stage.unloaded())
    assert missing.value.reason is ErrorReason.WALLET_NOT_FOUND


def waiting(number: int, units: int = 0, state: WalletState | None = None) -> Change:
    """A change that Postgres has and the outbox has not: a grant of USD, or a new state."""
    if state is not None:
        return Change(change_number=number, kind="STATE", state=state)
    grant = GrantChange(
        grant_id=f"g{number}",
        asset="USD",
        units=units,
        priority=0,
        source=GrantSource.PURCHASE,
        effective_ms=CREATE_MS,
        expire_ms=0,
        create_ms=CREATE_MS,
        labels="",
    )
    return Change(change_number=number, kind="GRANT", grant=grant)


async def test_changes_that_wait_are_applied_by_the_load(stage: Stage) -> None:
    wallet = stage.unloaded()
    changes = [waiting(8, units=5), waiting(9, state=WalletState.FROZEN), waiting(10, units=1)]
    await wallet.load([loaded("USD", packed("g1", 10))], sequence=41, change_number=7, changes=changes)
    reading = await wallet.read()
    assert (reading.state, reading.sequence, reading.change_number) == ("FROZEN", 44, 10)
    assert await wallet.grants("USD") == {"g1": (10, 0), "g10": (1, 0), "g8": (5, 0)}
    assert [(e.kind, e.wallet_sequence, e.change_number) for e in await wallet.events()] == [
        (EventKind.GRANT, 42, 8),
        (EventKind.STATE, 43, 9),
        (EventKind.GRANT, 44, 10),
    ]
    at_rest = await wallet.at_rest()
    assert not (await wallet.load([], changes=changes)).loaded
    for change in changes:
        assert not (await wallet.apply(change)).applied
    assert await wallet.at_rest() == at_rest


async def test_a_frozen_wallet_is_never_seen_active(stage: Stage) -> None:
    wallet = stage.unloaded()

    async def load(_tenant_id: str, _wallet_id: str) -> bool:
        changes = [waiting(2, state=WalletState.FROZEN)]
        await wallet.load([loaded("USD", packed("g1", 10))], sequence=1, change_number=1, changes=changes)
        return True

    stage.store.on_missing_wallet(load)
    replies = await asyncio.gather(*(wallet.authorize(f"h{number}", USD=1) for number in range(20)))
    assert {reply.reason for reply in replies} == {DenialReason.WALLET_FROZEN}


async def test_a_load_whose_change_cannot_be_applied_loads_nothing(stage: Stage) -> None:
    wallet = stage.unloaded()
    at_rest = await wallet.at_rest()
    with pytest.raises(DrawdownError) as failed:
        await wallet.load([loaded("USD", packed("g1", 10))], change_number=1, changes=[waiting(2, units=UNITS_MAX + 1)])
    assert failed.value.reason is ErrorReason.INTERNAL
    assert await wallet.at_rest() == at_rest


# --- apply -------------------------------------------------------------------------------------------------------


async def test_changes_are_applied_in_order_and_once(stage: Stage) -> None:
    wallet = await stage.wallet()
    assert (await wallet.grant("USD", 10, "g1", number=1, labels='{"invoice":"i-7"}')).applied
    assert (await wallet.set_state(WalletState.FROZEN, number=2)).applied
    assert (await wallet.grant("USD", 5, "g3", number=3)).applied
    at_rest = await wallet.at_rest()
    for again in (
        await wallet.grant("USD", 10, "g1", number=1),
        await wallet.set_state(WalletState.FROZEN, number=2),
        await wallet.grant("USD", 5, "g3", number=3),
    ):
        assert (again.status, again.applied) == ("OK", False)
    assert await wallet.at_rest() == at_rest
    granted, frozen, _ = await wallet.events()
    assert (granted.kind, granted.change_number, granted.labels) == (EventKind.GRANT, 1, '{"invoice":"i-7"}')
    assert granted.lines == [Line(LineKind.GRANT, "USD", 10, "g1")]
    assert (granted.hold_id, granted.amounts, granted.hold_create_ms, granted.late) == ("", [], 0, False)
    assert (frozen.kind, frozen.change_number, frozen.lines) == (EventKind.STATE, 2, [])
    reading = await wallet.read()
    assert (reading.state, reading.sequence, reading.change_number) == ("FROZEN", 3, 3)


@pytest.mark.parametrize("ahead", [2, 3, 1000])
async def test_a_change_that_comes_too_early_is_a_gap(stage: Stage, ahead: int) -> None:
    wallet = await stage.wallet(USD=10)
    at_rest = await wallet.at_rest()
    reply = await wallet.grant("USD", 5, number=1 + ahead)
    assert (reply.status, reply.change_number, reply.applied) == ("GAP", 1, False)
    assert await wallet.at_rest() == at_rest


async def test_many_appliers_of_the_same_changes_at_once(stage: Stage) -> None:
    wallet = await stage.wallet()
    for number in range(1, 6):
        replies = await asyncio.gather(*(wallet.grant("USD", 10, f"g{number}", number=number) for _ in range(20)))
        assert sum(reply.applied for reply in replies) == 1
    assert await wallet.available("USD") == 50


async def test_a_grant_while_holds_are_open(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.hold("h1", USD=10)
    await wallet.grant("USD", 5)
    balance = await wallet.balance("USD")
    assert (balance.settled, balance.held, balance.available) == (15, 10, 5)


async def test_a_settled_balance_beyond_the_exact_integers_cannot_trap_a_hold(stage: Stage) -> None:
    wallet = await stage.wallet(USD=UNITS_MAX)
    await wallet.hold("h1", USD=UNITS_MAX)
    await wallet.grant("USD", 10, "late")  # available is 0, but settled would be UNITS_MAX + 10: it waits
    assert (await wallet.balance("USD")).settled == UNITS_MAX
    await wallet.release("h1")
    assert await wallet.available("USD") == UNITS_MAX


# --- the epoch ---------------------------------------------------------------------------------------------------

VERBS: Final[dict[str, Callable[[Wallet], Awaitable[object]]]] = {
    "authorize": lambda wallet: wallet.authorize("h2", USD=1),
    "authorize again": lambda wallet: wallet.authorize("h1", USD=4),
    "commit": lambda wallet: wallet.commit("h1", USD=1),
    "release": lambda wallet: wallet.release("h1"),
    "bury": lambda wallet: wallet.release("h3", bury=True),
    "sweep": lambda wallet: wallet.sweep(recorded=False),
    "load": lambda wallet: wallet.load(),
    "grant": lambda wallet: wallet.grant("USD", 5),
    "freeze": lambda wallet: wallet.set_state(WalletState.FROZEN),
    "read": lambda wallet: wallet.read(),
    "read_hold": lambda wallet: wallet.read_hold("h1"),
    "list_holds": lambda wallet: wallet.open_holds(),
}


@pytest.mark.parametrize("epoch", ["2", "0", "01", "1 ", None])
@pytest.mark.parametrize("verb", VERBS)
async def test_a_stale_epoch_is_refused_by_every_verb(stage: Stage, verb: str, epoch: str | None) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.hold("h1", USD=4)
    if epoch is None:
        await wallet.client.delete(wallet.keys[0])
    else:
        await wallet.client.hset(wallet.keys[0], "epoch", epoch)
    at_rest = await wallet.at_rest()
    with pytest.raises(StoreUnavailableError):
        await VERBS[verb](wallet)
    assert await wallet.at_rest() == at_rest
    await stage.set_epoch(wallet, 1)


async def test_a_server_that_learns_the_new_epoch_starts_from_postgres_again(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.hold("h1", USD=4)
    old = await wallet.at_rest()
    await stage.set_epoch(wallet, 2)
    rebuilt = [2 if partition == wallet.partition else 1 for partition in range(stage.store.partitions)]

    async def refresh(_partitions: object) -> dict[int, int]:
        return dict(enumerate(rebuilt))

    async def load(_tenant_id: str, _wallet_id: str) -> bool:
        await wallet.load([loaded("USD", packed("g1", 10))], sequence=1, change_number=1)
        return True

    stage.store.on_stale_epoch(refresh)
    stage.store.on_missing_wallet(load)
    reply = await wallet.authorize("h2", USD=10)
    assert reply.status == "OK"  # nothing is held there: h1 is of the state that was lost
    dumped = [await wallet.client.dump(key) for key in list(old)[1:]]
    assert dumped == list(old.values())[1:]
