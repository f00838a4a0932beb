"""A hold that the store does not know, brought by the Commit itself: charged like an expired one, once, and in time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from drawdown_server.errors import DrawdownError, ErrorReason
from drawdown_server.holds.messages import CommitRequest, TotalUsed
from drawdown_server.holds.model import Cap, CapMode, CapWindow, ExpiryAction, HoldState, OveragePolicy
from drawdown_server.holds.recorded import RecordedAmount, RecordedDebit, RecordedHold, RecordedPart
from drawdown_server.holds.refusals import HoldUnknownError, UnknownAt

if TYPE_CHECKING:
    from contract.wallets import Stage, Wallet
    from drawdown_server.holds.messages import SettleReply

TICKET_MAX_MS: Final = 1_000
"""How old a ticket may not be: the least time for which a settled hold is remembered."""
HELD: Final = 10
CREATE_MS: Final = 1_700_000_000_000


def lost(*amounts: RecordedAmount, subjects: list[str] | None = None) -> RecordedHold:
    """A hold as its token has it: of 10 USD, unless said otherwise."""
    return RecordedHold(
        create_ms=CREATE_MS,
        settle_ms=0,
        subjects=subjects or [],
        labels='{"team":"search"}',
        late=False,
        wallet_sequence=0,
        amounts=list(amounts) or [RecordedAmount("USD", HELD)],
        refunds=[],
        state=HoldState.EXPIRED,
        fingerprint="of-its-authorize",
        expire_ms=CREATE_MS + 60_000,
        expiry_action=ExpiryAction.RELEASE,
    )


def request(wallet: Wallet, hold: RecordedHold | None, *, final: bool = True, **units: int) -> CommitRequest:
    totals = [TotalUsed(asset, amount) for asset, amount in units.items()]
    return CommitRequest(**wallet.ids, hold_id="h1", amounts=totals, final=final, tombstone_ms=900_000, lost=hold)


async def ticket_of(wallet: Wallet) -> UnknownAt:
    """The ticket of a Commit whose hold the store does not know."""
    with pytest.raises(HoldUnknownError) as caught:
        await wallet.store.commit(request(wallet, None, USD=1))
    assert caught.value.ticket is not None
    return caught.value.ticket


async def commit(
    wallet: Wallet, hold: RecordedHold, ticket: UnknownAt, *, age_ms: int = 0, final: bool = True, **units: int
) -> SettleReply | None:
    command = request(wallet, hold, final=final, **units)
    command.ticket_ms = ticket.time_ms - age_ms
    return await wallet.store.commit_lost(command, ticket)


async def test_an_unknown_hold_tells_when_it_was_unknown(stage: Stage) -> None:
    wallet = await stage.wallet(USD=100)
    before = await stage.store.now_ms()
    ticket = await ticket_of(wallet)
    assert (ticket.epoch, before <= ticket.time_ms <= await stage.store.now_ms()) == (1, True)


async def test_it_is_charged_late_with_all_that_its_token_knows(stage: Stage) -> None:
    wallet = await stage.wallet(USD=100)
    reply = await commit(wallet, lost(subjects=["key:a"]), await ticket_of(wallet), USD=7)
    assert reply is not None
    assert reply.hold is not None
    assert (reply.status, reply.replayed, reply.hold.state, reply.hold.late) == ("OK", False, "COMMITTED", True)
    assert (reply.hold.create_ms, reply.hold.fingerprint) == (CREATE_MS, "of-its-authorize")
    assert await wallet.available("USD") == 93
    event = (await wallet.events())[-1]
    assert (event.hold_id, event.hold_create_ms, event.late, event.final) == ("h1", CREATE_MS, True, True)
    assert (event.subjects, event.labels) == (["key:a"], '{"team":"search"}')


async def test_a_known_hold_is_never_replaced_by_a_lost_one(stage: Stage) -> None:
    wallet = await stage.wallet(USD=100)
    ticket = await ticket_of(wallet)
    await wallet.hold("h1", USD=20)
    reply = await commit(wallet, lost(), ticket, USD=15)
    assert reply is not None
    assert reply.hold is not None
    assert (reply.hold.late, reply.hold.amounts[0].authorized) == (False, 20), "the one that is here"
    again = await commit(wallet, lost(), ticket, USD=15)
    assert again is not None
    assert again.replayed
    assert await wallet.available("USD") == 85


async def test_a_tombstone_refuses_it(stage: Stage) -> None:
    wallet = await stage.wallet(USD=100)
    ticket = await ticket_of(wallet)
    await wallet.release("h1", bury=True)
    with pytest.raises(DrawdownError) as caught:
        await commit(wallet, lost(), ticket, USD=7)
    assert caught.value.reason is ErrorReason.HOLD_RELEASED
    assert await wallet.available("USD") == 100


@pytest.mark.parametrize("age_ms", [TICKET_MAX_MS, 60_000, -60_000])
async def test_a_ticket_that_is_too_old_or_from_the_future_charges_nothing(stage: Stage, age_ms: int) -> None:
    wallet = await stage.wallet(USD=100)
    ticket = await ticket_of(wallet)
    at_rest = await wallet.at_rest()
    assert await commit(wallet, lost(), ticket, age_ms=age_ms, USD=7) is None
    assert await wallet.at_rest() == at_rest


async def test_a_ticket_of_another_epoch_charges_nothing(stage: Stage) -> None:
    wallet = await stage.wallet(USD=100)
    ticket = await ticket_of(wallet)
    at_rest = await wallet.at_rest()
    await stage.set_epoch(wallet, 2)
    assert await commit(wallet, lost(), ticket, USD=7) is None
    await stage.set_epoch(wallet, 1)
    assert await wallet.at_rest() == at_rest


async def test_a_refused_one_stays_lost(stage: Stage) -> None:
    """So that a token of after a raise, or a Commit after a top-up, still finds it."""
    wallet = await stage.wallet(USD=5)
    at_rest = await wallet.at_rest()
    for units, reason in ((HELD + 1, ErrorReason.EXCEEDS_HOLD), (HELD, ErrorReason.INSUFFICIENT_FUNDS)):
        with pytest.raises(DrawdownError) as caught:
            await commit(wallet, lost(), await ticket_of(wallet), USD=units)
        assert caught.value.reason is reason
    assert await wallet.at_rest() == at_rest
    await wallet.grant("USD", 20)
    raised = lost(RecordedAmount("USD", 25))
    assert await commit(wallet, raised, await ticket_of(wallet), USD=25) is not None
    assert await wallet.available("USD") == 0


async def test_progress_leaves_it_open_for_more(stage: Stage) -> None:
    wallet = await stage.wallet(USD=100)
    ticket = await ticket_of(wallet)
    reply = await commit(wallet, lost(), ticket, final=False, USD=3)
    assert reply is not None
    assert reply.hold is not None
    assert reply.hold.state is HoldState.EXPIRED
    final = await wallet.commit("h1", USD=8)
    assert (final.status, await wallet.available("USD")) == ("OK", 92)


async def test_what_the_ledger_has_of_it_is_not_debited_again(stage: Stage) -> None:
    wallet = await stage.wallet(USD=100)
    so_far = RecordedAmount(
        "USD", HELD, debited=4, debits=[RecordedDebit("", 4)], parts=[RecordedPart([], 4)],
        overage_policy=OveragePolicy.CHARGE_FULL,
    )  # fmt: skip
    reply = await commit(wallet, lost(so_far), await ticket_of(wallet), USD=12)
    assert reply is not None
    assert reply.hold is not None
    assert reply.hold.amounts[0].debited == 12
    assert await wallet.available("USD") == 92
    stage.wallets.remove(wallet)  # its events tell only the second half of this hold


async def test_it_counts_in_the_caps_of_now_and_is_never_denied_by_them(stage: Stage) -> None:
    wallet = stage.unloaded()
    cap = Cap("key:a", "USD", CapWindow.LIFETIME, 5, CapMode.ENFORCE)
    await wallet.load(caps=[cap])
    await wallet.grant("USD", 100)
    await commit(wallet, lost(subjects=["key:a"]), await ticket_of(wallet), USD=7)
    denied = await wallet.authorize("h2", subjects=["key:a"], USD=1)
    assert (denied.status, denied.cap and denied.cap.used) == ("DENIED", 7)
    assert [(delta.counter, delta.units) for delta in (await wallet.events())[-1].cap_usage] == [
        ("key:a|USD|LIFETIME|0", 7)
    ]


async def test_an_asset_that_the_wallet_lost_is_owed(stage: Stage) -> None:
    wallet = await stage.wallet(USD=100)
    hold = lost(RecordedAmount("EUR", HELD, overage_policy=OveragePolicy.CHARGE_FULL))
    reply = await commit(wallet, hold, await ticket_of(wallet), EUR=7)
    assert reply is not None
    assert [(balance.asset, balance.debt) for balance in reply.balances] == [("EUR", 7)]
