"""Back-pressure: past the limit of its partition's outbox new spending waits, and whatever was approved goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from contract.wallets import TOMBSTONE_MS, TTL_MS
from drawdown_server.errors import DrawdownError, ErrorReason
from drawdown_server.holds.fingerprint import fingerprint
from drawdown_server.holds.messages import AmountRequest, ChargeRequest, ExtendRequest, RefundRequest, TotalUsed
from drawdown_server.holds.model import OveragePolicy

if TYPE_CHECKING:
    from contract.wallets import Stage, Wallet
    from drawdown_server.holds.messages import AuthorizeReply


async def charge(wallet: Wallet, charge_id: str, *, limit: int, units: int = 1) -> AuthorizeReply:
    return await wallet.store.charge(
        ChargeRequest(
            **wallet.ids,
            hold_id=charge_id,
            fingerprint=fingerprint({"amounts": str(units)}),
            amounts=[AmountRequest("USD", units, overage_policy=OveragePolicy.REJECT)],
            subjects=[],
            labels="",
            tombstone_ms=TOMBSTONE_MS,
            outbox_backlog_limit=limit,
        )
    )


async def backlog(wallet: Wallet) -> int:
    return int(await wallet.client.xlen(wallet.keys[1]))


async def assert_refused(wallet: Wallet, limit: int) -> None:
    """New holds and charges, and nothing is touched."""
    at_rest = await wallet.at_rest()
    for call in (wallet.authorize("new", outbox_backlog_limit=limit, USD=1), charge(wallet, "new", limit=limit)):
        with pytest.raises(DrawdownError) as refused:
            await call
        assert (refused.value.reason, refused.value.metadata) == (ErrorReason.LEDGER_BACKLOG, {})
    assert await wallet.at_rest() == at_rest


async def test_the_boundary_of_the_backlog(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10, TOKENS=5)
    assert await backlog(wallet) == 2
    await assert_refused(wallet, 1)
    assert (await wallet.authorize("h1", outbox_backlog_limit=2, USD=1)).status == "OK"
    assert (await charge(wallet, "c1", limit=2)).status == "OK"
    await assert_refused(wallet, 2)
    assert (await wallet.authorize("h2", outbox_backlog_limit=0, USD=1)).status == "OK", "no limit"
    assert (await charge(wallet, "c2", limit=0)).status == "OK"


async def test_what_was_approved_is_answered_again_and_settled_behind_any_backlog(stage: Stage) -> None:
    wallet = await stage.wallet(USD=100)
    for hold_id in ("committed", "released", "extended"):
        await wallet.hold(hold_id, USD=10)
    assert (await charge(wallet, "charged", limit=100)).status == "OK"
    await assert_refused(wallet, 1)
    assert (await wallet.authorize("committed", outbox_backlog_limit=1, USD=10)).replayed
    assert (await charge(wallet, "charged", limit=1)).replayed
    assert (await wallet.commit("committed", USD=7)).status == "OK"
    assert (await wallet.release("released")).status == "OK"
    extend = ExtendRequest(
        **wallet.ids, hold_id="extended", ttl_ms=TTL_MS, amounts=[TotalUsed("USD", 20)], tombstone_ms=TOMBSTONE_MS
    )
    assert (await wallet.store.extend(extend)).status == "OK"
    refund = RefundRequest(
        **wallet.ids,
        hold_id="committed",
        refund_id="r1",
        digest="",
        amounts=[TotalUsed("USD", 3)],
        grants=[],
        recorded=None,
        tombstone_ms=TOMBSTONE_MS,
    )
    assert (await wallet.store.refund(refund)).status == "OK"
    assert (await wallet.grant("USD", 1)).applied
    await assert_refused(wallet, 1)


async def test_a_partition_that_waits_for_the_ledger_stops_no_other(stage: Stage) -> None:
    wallet, other = await stage.wallet("w1", USD=10), await stage.wallet("w2", USD=10)
    assert wallet.partition != other.partition
    for number in range(3):
        await charge(wallet, f"c{number}", limit=0)
    await assert_refused(wallet, 2)
    assert (await other.authorize("h1", outbox_backlog_limit=2, USD=1)).status == "OK"


async def test_a_backlog_that_was_recorded_is_room_again(stage: Stage) -> None:
    wallet = await stage.wallet(USD=10, TOKENS=5, EUR=3)
    await assert_refused(wallet, 2)
    await wallet.trim_outbox()
    assert (await wallet.authorize("h1", outbox_backlog_limit=2, USD=1)).status == "OK"
