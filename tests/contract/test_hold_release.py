"""Release: give everything back, once; and a Release that came before its Authorize."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from drawdown_server.errors import DrawdownError, ErrorReason
from drawdown_server.holds.model import DenialReason, HoldState
from drawdown_server.holds.store import HoldUnknownError

if TYPE_CHECKING:
    from contract.wallets import Stage


async def test_everything_goes_back_to_its_grants_and_no_event_is_written(stage: Stage) -> None:
    wallet = await stage.wallet(TOKENS=100)
    await wallet.grant("USD", 3, "a", priority=1)
    await wallet.grant("USD", 9, "b", priority=2)
    sequence = (await wallet.read()).sequence
    await wallet.hold("h1", USD=10, TOKENS=100)
    reply = await wallet.release("h1")
    assert reply.hold is not None
    assert (reply.hold.state, reply.replayed, reply.hold.wallet_sequence) == (HoldState.RELEASED, False, 0)
    assert [(a.asset, a.authorized, a.held, a.debited) for a in reply.hold.amounts] == [
        ("USD", 10, 0, 0),
        ("TOKENS", 100, 0, 0),
    ]
    assert [(b.asset, b.held, b.available) for b in reply.balances] == [("USD", 0, 12), ("TOKENS", 0, 100)]
    assert await wallet.grants("USD") == {"a": (3, 0), "b": (9, 0)}
    assert (await wallet.read()).sequence == sequence


async def test_twice_is_the_same_answer(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.hold("h1", USD=10)
    first = await wallet.release("h1")
    at_rest = await wallet.at_rest()
    again = await wallet.release("h1")
    assert (again.hold, again.balances, again.replayed) == (first.hold, first.balances, True)
    assert await wallet.at_rest() == at_rest


async def test_a_committed_hold_cannot_be_released(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.hold("h1", USD=10)
    await wallet.commit("h1", USD=4)
    at_rest = await wallet.at_rest()
    for bury in (False, True):
        with pytest.raises(DrawdownError) as refused:
            await wallet.release("h1", bury=bury)
        assert refused.value.reason is ErrorReason.HOLD_COMMITTED
    assert await wallet.at_rest() == at_rest


async def test_an_unknown_hold_leaves_no_trace_unless_it_is_to_be_buried(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    at_rest = await wallet.at_rest()
    with pytest.raises(HoldUnknownError) as unknown:
        await wallet.release("h1")
    assert unknown.value.reason is ErrorReason.HOLD_NOT_FOUND
    assert await wallet.at_rest() == at_rest
    await wallet.hold("h1", USD=1)


async def test_a_release_that_came_first_refuses_the_late_authorize(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    buried = await wallet.release("h1", bury=True)
    assert buried.hold is not None
    assert (buried.hold.state, buried.hold.amounts, buried.replayed) == (HoldState.RELEASED, [], False)
    for units in (4, 5):  # the tombstone knows no content that could differ
        late = await wallet.authorize("h1", USD=units)
        assert (late.status, late.reason) == ("DENIED", DenialReason.HOLD_RELEASED)
    with pytest.raises(DrawdownError) as refused:
        await wallet.commit("h1", USD=1)
    assert refused.value.reason is ErrorReason.HOLD_RELEASED
    assert (await wallet.release("h1", bury=True)).replayed
    assert await wallet.available("USD") == 10


async def test_an_expired_hold_can_be_released_and_is_then_no_late_commit(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.due_hold("h1", USD=10)
    await wallet.sweep()
    reply = await wallet.release("h1")
    assert reply.hold is not None
    assert (reply.hold.state, reply.replayed) == (HoldState.RELEASED, False)
    with pytest.raises(DrawdownError) as refused:
        await wallet.commit("h1", USD=1)
    assert refused.value.reason is ErrorReason.HOLD_RELEASED


async def test_a_due_hold_that_nobody_swept_can_be_released(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10)
    await wallet.due_hold("h1", USD=10)
    await wallet.release("h1")
    assert await wallet.available("USD") == 10
    assert (await wallet.sweep()).expired == 0
