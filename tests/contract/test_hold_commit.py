"""Commit: debit what was used, give the rest back, record it in the same step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from drawdown_server.errors import DrawdownError, ErrorReason
from drawdown_server.holds.model import HoldState, WalletState
from drawdown_server.holds.store import HoldUnknownError
from drawdown_server.ledger.events import EventKind, Line, LineKind, SettledAmount

if TYPE_CHECKING:
    from contract.wallets import Stage


@pytest.mark.parametrize("used", [10, 9, 4, 1, 0])
async def test_the_used_units_are_debited_and_the_rest_goes_back(stage: Stage, used: int) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.hold("h1", USD=10)
    reply = await wallet.commit("h1", USD=used)
    assert reply.hold is not None
    assert reply.hold.state is HoldState.COMMITTED
    assert [(a.asset, a.authorized, a.held, a.debited, a.uncollected) for a in reply.hold.amounts] == [
        ("USD", 10, 0, used, 0)
    ]
    assert [(b.settled, b.held, b.available) for b in reply.balances] == [(10 - used, 0, 10 - used)]
    assert not reply.replayed
    assert not reply.hold.late


async def test_the_rest_goes_back_to_the_grants_that_it_came_from(stage: Stage) -> None:
    wallet = await stage.wallet()
    for number, units in enumerate((5, 5, 5), start=1):
        await wallet.grant("USD", units, f"g{number}", priority=number)
    await wallet.hold("h1", USD=12)
    assert await wallet.grants("USD") == {"g1": (0, 5), "g2": (0, 5), "g3": (3, 2)}
    await wallet.commit("h1", USD=7)
    assert await wallet.grants("USD") == {"g2": (3, 0), "g3": (5, 0)}  # g1 is used up and forgotten


async def test_what_goes_back_is_burned_first_again(stage: Stage) -> None:
    wallet = await stage.wallet()
    await wallet.grant("USD", 5, "first", priority=1)
    await wallet.grant("USD", 5, "second", priority=2)
    await wallet.hold("h1", USD=5)
    await wallet.hold("h2", USD=3)
    await wallet.commit("h1", USD=1)
    await wallet.hold("h3", USD=5)
    assert await wallet.grants("USD") == {"first": (0, 4), "second": (1, 4)}


async def test_an_asset_that_is_left_out_was_not_used(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10, TOKENS=1000)
    await wallet.hold("h1", USD=10, TOKENS=500)
    reply = await wallet.commit("h1", TOKENS=200)
    assert reply.hold is not None
    assert {a.asset: a.debited for a in reply.hold.amounts} == {"USD": 0, "TOKENS": 200}
    assert await wallet.available("USD") == 10
    assert await wallet.available("TOKENS") == 800


async def test_a_commit_of_nothing_is_an_event_without_lines(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.hold("h1", USD=10)
    reply = await wallet.commit("h1")
    event = (await wallet.events())[-1]
    assert (event.kind, event.lines) == (EventKind.COMMIT, [])
    assert event.amounts == [SettledAmount("USD", 10, 0, 0)]
    assert reply.hold is not None
    assert reply.hold.wallet_sequence == event.wallet_sequence == 2


async def test_the_event_says_what_the_reply_says(stage: Stage) -> None:
    wallet = await stage.wallet(TOKENS=1000)
    await wallet.grant("USD", 5, "promo", priority=1)
    await wallet.grant("USD", 5, "bought", priority=2)
    subjects, labels = ["key:sk_1", "user:42"], '{"trace":"a-b","größe":"☃"}'
    await wallet.authorize("h1", USD=9, TOKENS=300, subjects=subjects, labels=labels)
    before_ms = await stage.store.now_ms()
    reply = await wallet.commit("h1", TOKENS=250, USD=7)
    hold, event = reply.hold, (await wallet.events())[-1]
    assert hold is not None
    assert event.kind is EventKind.COMMIT
    assert (event.tenant_id, event.wallet_id, event.hold_id) == (wallet.tenant_id, wallet.wallet_id, "h1")
    assert event.wallet_sequence == hold.wallet_sequence == 4
    assert event.change_number == 0
    assert event.lines == [
        Line(LineKind.DEBIT, "USD", 5, "promo"),
        Line(LineKind.DEBIT, "USD", 2, "bought"),
        Line(LineKind.DEBIT, "TOKENS", 250, "g1"),
    ]
    assert event.amounts == [SettledAmount(a.asset, a.authorized, a.debited, a.uncollected) for a in hold.amounts]
    assert (event.subjects, event.labels) == (subjects, labels) == (hold.subjects, hold.labels)
    assert (event.hold_create_ms, event.time_ms) == (hold.create_ms, hold.settle_ms)
    assert hold.create_ms <= before_ms <= hold.settle_ms
    assert event.late is hold.late is False


async def test_the_same_totals_again_are_the_same_answer(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10, TOKENS=10)
    await wallet.hold("h1", USD=10, TOKENS=10)
    first = await wallet.commit("h1", USD=4)
    at_rest = await wallet.at_rest()
    for totals in ({"USD": 4}, {"USD": 4, "TOKENS": 0}, {"TOKENS": 0, "USD": 4}, {}):
        again = await wallet.commit("h1", **totals)
        assert again.replayed
        assert (again.hold, again.balances) == (first.hold, first.balances)
    assert await wallet.at_rest() == at_rest


@pytest.mark.parametrize("totals", [{"USD": 5}, {"USD": 3}, {"USD": 4, "TOKENS": 1}, {"USD": 4, "GPU": 0}, {"USD": 11}])
async def test_other_totals_for_a_committed_hold_are_refused(stage: Stage, totals: dict[str, int]) -> None:
    wallet = await stage.wallet(USD=10, TOKENS=10)
    await wallet.hold("h1", USD=10, TOKENS=10)
    await wallet.commit("h1", USD=4)
    at_rest = await wallet.at_rest()
    with pytest.raises(DrawdownError) as refused:
        await wallet.commit("h1", **totals)
    assert refused.value.reason is ErrorReason.HOLD_COMMITTED
    assert await wallet.at_rest() == at_rest


REFUSALS = {
    "another asset": ({"GPU": 1}, ErrorReason.ASSET_NOT_HELD),
    "nothing of another asset": ({"USD": 1, "GPU": 0}, ErrorReason.ASSET_NOT_HELD),
    "another asset and too much": ({"USD": 7, "GPU": 1}, ErrorReason.ASSET_NOT_HELD),
    "one more than held": ({"USD": 7}, ErrorReason.EXCEEDS_HOLD),
    "one of two is more than held": ({"TOKENS": 5, "USD": 7}, ErrorReason.EXCEEDS_HOLD),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_a_refused_commit_leaves_the_hold_as_it_was(stage: Stage, case: str) -> None:
    totals, reason = REFUSALS[case]
    wallet = await stage.wallet(USD=10, TOKENS=10)
    await wallet.hold("h1", USD=6, TOKENS=5)
    at_rest = await wallet.at_rest()
    with pytest.raises(DrawdownError) as refused:
        await wallet.commit("h1", **totals)
    assert refused.value.reason is reason
    if reason is ErrorReason.EXCEEDS_HOLD:
        asked_and_held = refused.value.metadata["units"], refused.value.metadata["held_units"]
        assert (refused.value.metadata["asset"], asked_and_held) == ("USD", ("7", "6"))
    assert await wallet.at_rest() == at_rest
    await wallet.commit("h1", USD=6, TOKENS=5)


async def test_a_released_hold_cannot_be_committed(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.hold("h1", USD=10)
    await wallet.release("h1")
    at_rest = await wallet.at_rest()
    with pytest.raises(DrawdownError) as refused:
        await wallet.commit("h1", USD=1)
    assert refused.value.reason is ErrorReason.HOLD_RELEASED
    assert await wallet.at_rest() == at_rest


async def test_an_unknown_hold_cannot_be_committed(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    at_rest = await wallet.at_rest()
    with pytest.raises(HoldUnknownError):
        await wallet.commit("never", USD=1)
    assert await wallet.at_rest() == at_rest


@pytest.mark.parametrize("state", [WalletState.FROZEN, WalletState.CLOSED])
async def test_what_was_held_is_settled_in_every_state_of_the_wallet(stage: Stage, state: WalletState) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.hold("h1", USD=5)
    await wallet.hold("h2", USD=5)
    await wallet.set_state(state)
    await wallet.commit("h1", USD=3)
    await wallet.release("h2")
    assert await wallet.available("USD") == 7


async def test_a_negative_total_creates_no_money(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.hold("h1", USD=5)
    at_rest = await wallet.at_rest()
    with pytest.raises(DrawdownError) as failed:
        await wallet.commit("h1", USD=-5)
    assert failed.value.reason is ErrorReason.INTERNAL
    assert await wallet.at_rest() == at_rest
