"""The same hold id again: the same content is the same answer, other content is refused, and nothing changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from drawdown_server.errors import DrawdownError, ErrorReason
from drawdown_server.holds.fingerprint import FIELDS, fingerprint
from drawdown_server.holds.model import DenialReason, HoldState, WalletState

if TYPE_CHECKING:
    from contract.wallets import Stage, Wallet


async def bring_to(wallet: Wallet, state: HoldState) -> None:
    """Hold 4 USD as ``h1`` and bring that hold to a state."""
    if state is HoldState.EXPIRED:
        await wallet.due_hold("h1", USD=4)
        assert (await wallet.sweep()).expired == 1
        return
    await wallet.hold("h1", ttl_ms=60_000, USD=4)
    if state is HoldState.COMMITTED:
        await wallet.commit("h1", USD=3)
    elif state is HoldState.RELEASED:
        await wallet.release("h1")


@pytest.mark.parametrize("state", [HoldState.HELD, HoldState.COMMITTED, HoldState.EXPIRED])
async def test_the_same_content_answers_the_hold_as_it_is(stage: Stage, state: HoldState) -> None:
    wallet = await stage.wallet(USD=10)
    await bring_to(wallet, state)
    at_rest = await wallet.at_rest()
    hold = await wallet.read_hold("h1")
    for _ in range(3):
        reply = await wallet.authorize("h1", ttl_ms=hold.expire_ms - hold.create_ms, USD=4)
        assert (reply.status, reply.replayed, reply.hold) == ("OK", True, hold)
        assert [b.asset for b in reply.balances] == ["USD"]
    assert hold.state is state
    assert await wallet.at_rest() == at_rest


async def test_a_released_hold_is_denied(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await bring_to(wallet, HoldState.RELEASED)
    at_rest = await wallet.at_rest()
    reply = await wallet.authorize("h1", ttl_ms=60_000, USD=4)
    assert (reply.status, reply.reason, reply.replayed) == ("DENIED", DenialReason.HOLD_RELEASED, True)
    assert await wallet.at_rest() == at_rest


@pytest.mark.parametrize("state", list(HoldState))
async def test_other_content_is_refused_in_every_state(stage: Stage, state: HoldState) -> None:
    wallet = await stage.wallet(USD=10)
    await bring_to(wallet, state)
    at_rest = await wallet.at_rest()
    with pytest.raises(DrawdownError) as refused:
        await wallet.authorize("h1", ttl_ms=60_000, USD=5)
    assert refused.value.reason is ErrorReason.ID_REUSED
    assert refused.value.metadata["field"] == "amounts"
    assert await wallet.at_rest() == at_rest


@pytest.mark.parametrize("field", FIELDS)
async def test_the_field_that_differs_is_named(stage: Stage, field: str) -> None:
    wallet = await stage.wallet(USD=10)
    content = dict.fromkeys(FIELDS, "same")
    await wallet.authorize("h1", print_of=fingerprint(content), USD=4)
    at_rest = await wallet.at_rest()
    for other in ("other", ""):
        with pytest.raises(DrawdownError) as refused:
            await wallet.authorize("h1", print_of=fingerprint({**content, field: other}), USD=4)
        assert refused.value.reason is ErrorReason.ID_REUSED
        assert refused.value.metadata == {"resource": "hold", "id": "h1", "field": field}
    assert (await wallet.authorize("h1", print_of=fingerprint(content), USD=4)).replayed
    assert await wallet.at_rest() == at_rest


async def test_a_replay_needs_neither_funds_nor_room_nor_an_active_wallet(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.hold("h1", USD=10)
    await wallet.set_state(WalletState.FROZEN)
    reply = await wallet.authorize("h1", open_holds_max=0, USD=10)
    assert (reply.status, reply.replayed) == ("OK", True)


async def test_a_replay_does_not_free_due_holds(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.due_hold("h1", USD=6)
    at_rest = await wallet.at_rest()
    reply = await wallet.authorize("h1", ttl_ms=1, USD=6)
    assert reply.replayed
    assert await wallet.at_rest() == at_rest


async def test_every_verb_again_changes_nothing(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.hold("h1", USD=4)
    await wallet.hold("h2", USD=4)
    await wallet.commit("h1", USD=3)
    await wallet.release("h2")
    await wallet.release("h3", bury=True)
    at_rest = await wallet.at_rest()
    assert (await wallet.commit("h1", USD=3)).replayed
    assert (await wallet.release("h2")).replayed
    assert (await wallet.release("h3", bury=True)).replayed
    assert not (await wallet.grant("USD", 10, "g1", number=1)).applied
    assert not (await wallet.load()).loaded
    await wallet.read()
    await wallet.open_holds()
    assert await wallet.at_rest() == at_rest


async def test_the_same_id_in_two_wallets_is_two_holds(stage: Stage) -> None:
    one, other = await stage.wallet("w1", USD=10), await stage.wallet("w2", USD=10)
    foreign = await stage.wallet("w1", "other-tenant", USD=10)
    for wallet in (one, other, foreign):
        await wallet.hold("h1", USD=10)
    await one.commit("h1", USD=10)
    assert (await other.read_hold("h1")).state is (await foreign.read_hold("h1")).state is HoldState.HELD
