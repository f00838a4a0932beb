"""Amounts near 2^53-1: what would leave the range is refused or waits, and never breaks a script."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from contract.wallets import CREATE_MS, TOMBSTONE_MS
from drawdown_server.errors import DrawdownError, ErrorReason
from drawdown_server.holds.messages import (
    AmountRequest,
    Change,
    ChargeRequest,
    PackedGrant,
    ReadCapsRequest,
    RefundRequest,
    SettleReply,
    TotalUsed,
)
from drawdown_server.holds.model import (
    UNITS_MAX,
    Cap,
    CapMode,
    CapWindow,
    GrantSource,
    OveragePolicy,
    WalletState,
)
from drawdown_server.ledger.events import Line, LineKind

if TYPE_CHECKING:
    from contract.wallets import Stage, Wallet

FULL: Final = OveragePolicy.CHARGE_FULL


async def refund(wallet: Wallet, hold_id: str, units: int, grants: list[PackedGrant]) -> SettleReply:
    request = RefundRequest(
        **wallet.ids,
        hold_id=hold_id,
        refund_id="r1",
        digest=str(units),
        amounts=[TotalUsed("USD", units)],
        grants=grants,
        recorded=None,
        tombstone_ms=TOMBSTONE_MS,
    )
    return await wallet.store.refund(request)


def used_up(grant_id: str) -> PackedGrant:
    """A grant as Postgres has it when nothing is left of it."""
    return PackedGrant(grant_id, 0, 0, 0, 0, GrantSource.PURCHASE, CREATE_MS, CREATE_MS)


async def test_a_refund_for_which_there_is_no_room_is_refused_until_there_is(stage: Stage) -> None:
    wallet = await stage.wallet(USD=UNITS_MAX)
    await wallet.hold("h1", USD=UNITS_MAX)
    await wallet.commit("h1", USD=UNITS_MAX)
    await wallet.grant("USD", UNITS_MAX)
    at_rest = await wallet.at_rest()
    with pytest.raises(DrawdownError, match="would exceed 9007199254740991 units") as refused:
        await refund(wallet, "h1", 1, [used_up("g1")])
    assert refused.value.reason is ErrorReason.BALANCE_OUT_OF_RANGE
    assert refused.value.metadata == {"asset": "USD", "limit": str(UNITS_MAX)}
    assert await wallet.at_rest() == at_rest
    await wallet.hold("h2", USD=2)
    with pytest.raises(DrawdownError, match="would exceed"):
        await refund(wallet, "h1", 1, [used_up("g1")])  # what is held may come back
    await wallet.commit("h2", USD=2)
    assert (await refund(wallet, "h1", 2, [used_up("g1")])).status == "OK"
    assert await wallet.available("USD") == UNITS_MAX


@pytest.mark.parametrize("effective_ms", [0, CREATE_MS], ids=["at once", "since then"])
async def test_a_grant_that_waits_for_room_is_seen_and_comes_when_there_is(stage: Stage, effective_ms: int) -> None:
    """Postgres had recorded it before it knew of the refund that took its room."""
    wallet = await stage.wallet(USD=UNITS_MAX)
    await wallet.hold("h1", USD=10)
    await wallet.grant("USD", 7, effective_ms=effective_ms)
    (waiting,) = (await wallet.balance("USD")).scheduled
    assert (waiting.free, waiting.effective_ms) == (7, effective_ms)
    await wallet.commit("h1", USD=10)
    await wallet.sweep()
    assert (7, 0) in (await wallet.grants("USD")).values()
    assert await wallet.available("USD") == UNITS_MAX - 3


async def test_a_refund_leaves_room_for_what_may_be_owed(stage: Stage) -> None:
    wallet = await stage.wallet(USD=5)
    await wallet.hold("h1", USD=5)
    await wallet.commit("h1", USD=5)
    await wallet.apply(Change(wallet.change_number + 1, "OVERDRAFT", asset="USD", limit=UNITS_MAX - 3))
    with pytest.raises(DrawdownError, match="would exceed"):
        await refund(wallet, "h1", 4, [used_up("g1")])
    assert (await refund(wallet, "h1", 3, [used_up("g1")])).status == "OK"
    assert await wallet.available("USD") == UNITS_MAX


async def test_debt_is_never_deeper_than_the_range(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    for hold_id in ("h1", "h2"):
        await wallet.authorize(hold_id, overage_policy=FULL, USD=5)
    await wallet.commit("h1", USD=UNITS_MAX)  # 5 of its own, the rest is debt
    assert (await wallet.balance("USD")).debt == UNITS_MAX - 5
    at_rest = await wallet.at_rest()
    with pytest.raises(DrawdownError, match="would exceed") as refused:
        await wallet.commit("h2", USD=11)
    assert refused.value.reason is ErrorReason.BALANCE_OUT_OF_RANGE
    assert await wallet.at_rest() == at_rest
    charge = ChargeRequest(
        **wallet.ids,
        hold_id="c1",
        fingerprint="",
        amounts=[AmountRequest("USD", 6, overage_policy=FULL)],
        subjects=[],
        labels="",
        tombstone_ms=TOMBSTONE_MS,
    )
    with pytest.raises(DrawdownError, match="would exceed"):
        await wallet.store.charge(charge)
    assert await wallet.at_rest() == at_rest
    await wallet.commit("h2", USD=10)
    assert (await wallet.balance("USD")).debt == UNITS_MAX


async def test_overdraft_that_is_held_is_debt_to_come(stage: Stage) -> None:
    wallet = await stage.wallet(USD=5)
    await wallet.authorize("h1", overage_policy=FULL, USD=5)
    await wallet.apply(Change(wallet.change_number + 1, "OVERDRAFT", asset="USD", limit=10))
    await wallet.hold("h2", USD=10)  # all of it on the overdraft
    with pytest.raises(DrawdownError, match="would exceed"):
        await wallet.commit("h1", USD=UNITS_MAX - 4)
    await wallet.commit("h1", USD=UNITS_MAX - 5)
    await wallet.commit("h2", USD=10)
    assert (await wallet.balance("USD")).debt == UNITS_MAX


async def test_a_grant_for_which_there_is_no_room_waits_and_then_comes_in(stage: Stage) -> None:
    # Postgres lets it pass when it does not know yet what a refund has just given back.
    wallet = await stage.wallet(USD=UNITS_MAX)
    assert (await wallet.grant("USD", 7, "late")).applied
    await wallet.set_state(WalletState.FROZEN)  # the changes after it do not wait
    await wallet.set_state(WalletState.ACTIVE)
    balance = await wallet.balance("USD")
    assert (balance.settled, [grant.grant_id for grant in balance.scheduled]) == (UNITS_MAX, ["late"])
    assert not (await wallet.sweep()).more
    await wallet.hold("h1", USD=6)
    await wallet.commit("h1", USD=6)
    assert await wallet.available("USD") == UNITS_MAX - 6
    await wallet.hold("h2", USD=1)
    await wallet.commit("h2", USD=1)
    await wallet.sweep()
    balance = await wallet.balance("USD")
    assert (balance.settled, balance.scheduled) == (UNITS_MAX, [])
    assert (await wallet.events())[-1].lines == [Line(LineKind.GRANT, "USD", 7, "late")]


async def test_a_counter_of_all_time_reads_as_the_whole_range_from_there_on(stage: Stage) -> None:
    wallet = await stage.wallet()
    cap = Cap("", "USD", CapWindow.LIFETIME, UNITS_MAX, CapMode.OBSERVE)
    await wallet.apply(Change(wallet.change_number + 1, "CAP", cap=cap))
    for number in range(3):
        await wallet.grant("USD", UNITS_MAX)
        await wallet.hold(f"h{number}", USD=UNITS_MAX)
        await wallet.commit(f"h{number}", USD=UNITS_MAX)
    reply = await wallet.store.read_caps(ReadCapsRequest(**wallet.ids, subjects=[]))
    assert [status.used for status in reply.usage] == [UNITS_MAX]
