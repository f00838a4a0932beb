"""AuthorizationService as a gateway sees it: every answer of Authorize, Commit, Release, GetHold and ListHolds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from drawdown.v1 import asset_service_pb2 as asset_pb
from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import balance_service_pb2 as balance_pb
from drawdown.v1 import types_pb2
from drawdown.v1 import wallet_service_pb2 as wallet_pb
from integration.server import amounts, authorize_request, commit_request, duration, until

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from integration.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")


def ms(time: Timestamp) -> int:
    return time.ToMilliseconds()


def units_of(hold: types_pb2.Hold) -> dict[str, tuple[int, int, int, int]]:
    """authorized, held, debited, uncollected by asset."""
    return {a.asset: (a.authorized_units, a.held_units, a.debited_units, a.uncollected_units) for a in hold.amounts}


def balances_of(balances: list[types_pb2.Balance]) -> dict[str, tuple[int, int, int]]:
    """settled, held, available by asset."""
    return {b.asset: (b.settled_units, b.held_units, b.available_units) for b in balances}


async def test_authorize_answers_the_hold_and_the_balances_after_it(server: Server) -> None:
    wallet = await server.wallet(USD=100, TOKENS=7)
    request = pb.AuthorizeRequest(
        wallet_id=wallet,
        hold_id="h1",
        amounts=amounts(USD=60, TOKENS=7),
        ttl=duration(30.5),
        subjects=["key:sk_1", "model:gpt-x"],
        labels={"run": "a", "überschrift": "ü"},
        overage_policy=types_pb2.OVERAGE_POLICY_REJECT,
        expiry_action=types_pb2.EXPIRY_ACTION_RELEASE,
    )
    reply = await server.call(request)
    assert reply.decision == pb.DECISION_APPROVED
    assert not reply.HasField("denial")
    assert (reply.replayed, reply.alternative_index) == (False, 0)
    hold = reply.hold
    assert (hold.wallet_id, hold.hold_id, hold.state) == (wallet, "h1", types_pb2.HOLD_STATE_HELD)
    assert units_of(hold) == {"USD": (60, 60, 0, 0), "TOKENS": (7, 7, 0, 0)}
    assert ms(hold.expire_time) - ms(hold.create_time) == 30_500
    assert not hold.HasField("settle_time")
    assert list(hold.subjects) == ["key:sk_1", "model:gpt-x"]
    assert dict(hold.labels) == {"run": "a", "überschrift": "ü"}
    assert hold.overage_policy == types_pb2.OVERAGE_POLICY_REJECT
    assert hold.expiry_action == types_pb2.EXPIRY_ACTION_RELEASE
    assert hold.hold_token == b""
    assert balances_of(reply.balances) == {"USD": (100, 60, 40), "TOKENS": (7, 7, 0)}
    assert await server.get_hold(wallet, "h1") == hold
    await server.assert_conserved(wallet)


async def test_a_hold_without_ttl_lasts_five_minutes(server: Server) -> None:
    wallet = await server.wallet(USD=1)
    reply = await server.call(pb.AuthorizeRequest(wallet_id=wallet, hold_id="h", amounts=amounts(USD=1)))
    assert ms(reply.hold.expire_time) - ms(reply.hold.create_time) == 300_000


@pytest.mark.parametrize("seconds", [1, 86_400])
async def test_the_shortest_and_the_longest_ttl(server: Server, seconds: int) -> None:
    wallet = await server.wallet(USD=1)
    reply = await server.authorize(wallet, "h", ttl_s=seconds, USD=1)
    assert ms(reply.hold.expire_time) - ms(reply.hold.create_time) == seconds * 1000


async def test_commit_answers_what_was_debited_and_what_came_back(server: Server) -> None:
    wallet = await server.wallet(USD=100, TOKENS=10)
    held = (await server.authorize(wallet, "h1", USD=60, TOKENS=10)).hold
    before = await server.call(balance_pb.GetBalanceRequest(wallet_id=wallet))
    reply = await server.commit(wallet, "h1", USD=45)
    assert units_of(reply.hold) == {"USD": (60, 0, 45, 0), "TOKENS": (10, 0, 0, 0)}
    assert reply.hold.state == types_pb2.HOLD_STATE_COMMITTED
    assert ms(reply.hold.create_time) == ms(held.create_time) <= ms(reply.hold.settle_time) < ms(held.expire_time)
    assert list(reply.debited) == amounts(USD=45, TOKENS=0)
    assert list(reply.released) == amounts(USD=15, TOKENS=10)
    assert list(reply.uncollected) == []
    assert balances_of(reply.balances) == {"USD": (55, 0, 55), "TOKENS": (10, 0, 10)}
    assert (reply.late, reply.replayed) == (False, False)
    assert reply.wallet_sequence == before.wallet_sequence + 1
    assert (await server.call(balance_pb.GetBalanceRequest(wallet_id=wallet))).wallet_sequence == reply.wallet_sequence
    await server.assert_conserved(wallet)


async def test_commit_of_zero_gives_everything_back_and_is_an_event(server: Server) -> None:
    wallet = await server.wallet(USD=100)
    await server.authorize(wallet, "h1", USD=60)
    reply = await server.commit(wallet, "h1", USD=0)
    assert reply.hold.state == types_pb2.HOLD_STATE_COMMITTED
    assert (list(reply.debited), list(reply.released)) == (amounts(USD=0), amounts(USD=60))
    assert reply.wallet_sequence == 2
    await server.assert_conserved(wallet)


async def test_release_gives_everything_back_without_an_event(server: Server) -> None:
    wallet = await server.wallet(USD=100)
    await server.authorize(wallet, "h1", USD=60)
    reply = await server.call(pb.ReleaseRequest(wallet_id=wallet, hold_id="h1", reason="the model was overloaded"))
    assert reply.hold.state == types_pb2.HOLD_STATE_RELEASED
    assert units_of(reply.hold) == {"USD": (60, 0, 0, 0)}
    assert reply.hold.HasField("settle_time")
    assert balances_of(reply.balances) == {"USD": (100, 0, 100)}
    assert not reply.replayed
    again = await server.release(wallet, "h1")
    assert again.replayed
    assert again.hold == reply.hold
    assert (await server.call(balance_pb.GetBalanceRequest(wallet_id=wallet))).wallet_sequence == 1
    await server.assert_conserved(wallet)


async def test_a_release_that_came_first_refuses_the_delayed_authorize(server: Server) -> None:
    wallet = await server.wallet(USD=100)
    reply = await server.release(wallet, "h1")
    assert (reply.hold.state, list(reply.hold.amounts)) == (types_pb2.HOLD_STATE_RELEASED, [])
    assert not reply.hold.HasField("expire_time")
    late = await server.authorize(wallet, "h1", USD=1)
    assert late.decision == pb.DECISION_DENIED
    assert late.denial.reason == pb.DENIAL_REASON_HOLD_RELEASED
    assert (await server.balance(wallet)).held_units == 0
    await server.assert_conserved(wallet)


async def test_authorize_after_the_release_of_its_hold_is_denied(server: Server) -> None:
    wallet = await server.wallet(USD=100)
    await server.authorize(wallet, "h1", USD=1)
    await server.release(wallet, "h1")
    reply = await server.authorize(wallet, "h1", USD=1)
    assert reply.denial.reason == pb.DENIAL_REASON_HOLD_RELEASED
    await server.assert_conserved(wallet)


async def test_denied_for_too_little(server: Server) -> None:
    wallet = await server.wallet(USD=100, TOKENS=5)
    reply = await server.authorize(wallet, "h1", USD=10, TOKENS=6)
    assert reply.decision == pb.DECISION_DENIED
    assert not reply.HasField("hold")
    assert reply.denial == pb.Denial(
        reason=pb.DENIAL_REASON_INSUFFICIENT_FUNDS, asset="TOKENS", required_units=6, available_units=5
    )
    assert balances_of(reply.balances) == {"USD": (100, 0, 100), "TOKENS": (5, 0, 5)}
    assert (await server.authorize(wallet, "h1", USD=10, TOKENS=5)).decision == pb.DECISION_APPROVED
    await server.assert_conserved(wallet)


async def test_denied_for_an_asset_that_the_wallet_never_had(server: Server) -> None:
    wallet = await server.wallet(USD=100)
    reply = await server.authorize(wallet, "h1", EUR=1)
    assert reply.denial == pb.Denial(
        reason=pb.DENIAL_REASON_INSUFFICIENT_FUNDS, asset="EUR", required_units=1, available_units=0
    )
    assert balances_of(reply.balances) == {"EUR": (0, 0, 0)}


async def test_denied_for_an_unknown_asset_before_funds_are_looked_at(server: Server) -> None:
    wallet = await server.wallet(USD=1)
    reply = await server.authorize(wallet, "h1", USD=2, NOPE=1)
    assert reply.denial == pb.Denial(reason=pb.DENIAL_REASON_ASSET_NOT_FOUND, asset="NOPE")
    await server.assert_conserved(wallet)


async def test_denied_for_an_unknown_wallet(server: Server) -> None:
    reply = await server.authorize("nobody", "h1", USD=1)
    assert reply.decision == pb.DECISION_DENIED
    assert reply.denial == pb.Denial(reason=pb.DENIAL_REASON_WALLET_NOT_FOUND)
    assert list(reply.balances) == []


async def test_a_frozen_wallet_takes_no_new_holds_and_settles_the_open_ones(server: Server) -> None:
    wallet = await server.wallet(USD=100)
    for hold_id in ("h1", "h2"):
        await server.authorize(wallet, hold_id, USD=10)
    await server.call(wallet_pb.FreezeWalletRequest(wallet_id=wallet, reason="chargeback"))
    denied = await server.authorize(wallet, "h3", USD=1)
    assert denied.denial == pb.Denial(reason=pb.DENIAL_REASON_WALLET_FROZEN)
    assert balances_of(denied.balances) == {"USD": (100, 20, 80)}
    replayed = await server.authorize(wallet, "h1", USD=10)
    assert (replayed.decision, replayed.replayed) == (pb.DECISION_APPROVED, True)
    assert (await server.commit(wallet, "h1", USD=10)).hold.state == types_pb2.HOLD_STATE_COMMITTED
    assert (await server.release(wallet, "h2")).hold.state == types_pb2.HOLD_STATE_RELEASED
    await server.call(wallet_pb.UnfreezeWalletRequest(wallet_id=wallet))
    assert (await server.authorize(wallet, "h3", USD=1)).decision == pb.DECISION_APPROVED
    await server.assert_conserved(wallet)


@pytest.mark.parametrize(
    ("committed", "reason", "metadata"),
    [
        ({"USD": 11}, "EXCEEDS_HOLD", {"asset": "USD", "units": "11", "held_units": "10"}),
        ({"USD": 2**53 - 1}, "EXCEEDS_HOLD", {"asset": "USD", "units": str(2**53 - 1), "held_units": "10"}),
        ({"USD": 1, "TOKENS": 1}, "ASSET_NOT_HELD", {"asset": "TOKENS"}),
        ({"NOPE": 0}, "ASSET_NOT_HELD", {"asset": "NOPE"}),
    ],
)
async def test_a_commit_that_does_not_fit_its_hold_leaves_it_untouched(
    server: Server, committed: dict[str, int], reason: str, metadata: dict[str, str]
) -> None:
    wallet = await server.wallet(USD=100, TOKENS=5)
    held = (await server.authorize(wallet, "h1", USD=10)).hold
    failure = await server.failure(commit_request(wallet, "h1", **committed))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, reason)
    assert failure.metadata == metadata | {"wallet_id": wallet, "hold_id": "h1"}
    assert await server.get_hold(wallet, "h1") == held
    assert (await server.commit(wallet, "h1", USD=10)).wallet_sequence == 3
    await server.assert_conserved(wallet)


async def test_a_hold_nobody_settles_expires_and_its_late_commit_is_still_charged(server: Server) -> None:
    wallet = await server.wallet(USD=100)
    held = (await server.authorize(wallet, "h1", ttl_s=1, USD=60)).hold

    async def expired() -> bool:
        return (await server.get_hold(wallet, "h1")).state == types_pb2.HOLD_STATE_EXPIRED

    await until(expired)
    hold = await server.get_hold(wallet, "h1")
    assert ms(hold.settle_time) >= ms(held.expire_time)
    assert (await server.balance(wallet)).available_units == 100
    replayed = await server.authorize(wallet, "h1", ttl_s=1, USD=60)
    assert (replayed.replayed, replayed.hold.state) == (True, types_pb2.HOLD_STATE_EXPIRED)
    await server.authorize(wallet, "h2", USD=50)
    failure = await server.failure(commit_request(wallet, "h1", USD=60))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_FUNDS")
    assert failure.metadata == {
        "wallet_id": wallet,
        "hold_id": "h1",
        "asset": "USD",
        "units": "60",
        "available_units": "50",
    }
    late = await server.commit(wallet, "h1", USD=50)
    assert (late.late, late.replayed, list(late.debited), list(late.released)) == (True, False, amounts(USD=50), [])
    assert balances_of(late.balances) == {"USD": (50, 50, 0)}
    again = await server.commit(wallet, "h1", USD=50)
    assert (again.late, again.replayed, again.wallet_sequence) == (True, True, late.wallet_sequence)
    await server.assert_conserved(wallet)


async def test_a_due_hold_is_freed_inside_the_authorize_that_needs_its_units(server: Server) -> None:
    wallet = await server.wallet(USD=10)
    await server.authorize(wallet, "h1", ttl_s=1, USD=10)

    async def approved() -> bool:
        return (await server.authorize(wallet, "h2", USD=10)).decision == pb.DECISION_APPROVED

    await until(approved)
    await server.assert_conserved(wallet)


async def test_what_nobody_knows_is_not_found(server: Server) -> None:
    wallet = await server.wallet(USD=1)
    for request in (pb.GetHoldRequest(wallet_id=wallet, hold_id="x"), commit_request(wallet, "x", USD=1)):
        failure = await server.failure(request)
        assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "HOLD_NOT_FOUND")
        assert failure.metadata == {"wallet_id": wallet, "hold_id": "x"}
        assert failure.retry_ms is None
    for request in (
        pb.GetHoldRequest(wallet_id="nobody", hold_id="x"),
        pb.ListHoldsRequest(wallet_id="nobody"),
        commit_request("nobody", "x", USD=1),
        pb.ReleaseRequest(wallet_id="nobody", hold_id="x"),
    ):
        failure = await server.failure(request)
        assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "WALLET_NOT_FOUND")
        assert failure.metadata == {"wallet_id": "nobody"}


async def test_list_holds_pages_through_the_open_ones_by_expiry(server: Server) -> None:
    wallet = await server.wallet(USD=100)
    for number in range(7):
        await server.authorize(wallet, f"h{number}", ttl_s=100 - 10 * number, USD=1)
    await server.commit(wallet, "h3", USD=1)
    await server.release(wallet, "h4")
    seen, token, pages = [], "", 0
    while True:
        reply = await server.call(pb.ListHoldsRequest(wallet_id=wallet, page_size=2, page_token=token))
        assert len(reply.holds) <= 2
        for hold in reply.holds:
            assert hold == await server.get_hold(wallet, hold.hold_id)
        seen += [hold.hold_id for hold in reply.holds]
        pages += 1
        token = reply.next_page_token
        if not token:
            break
    assert seen == ["h6", "h5", "h2", "h1", "h0"]
    assert pages == 3
    assert [h.hold_id for h in (await server.call(pb.ListHoldsRequest(wallet_id=wallet))).holds] == seen
    await server.assert_conserved(wallet)


async def test_ids_with_every_allowed_character_and_of_every_allowed_length(server: Server) -> None:
    wallet = await server.wallet("Az09._:@/-" + "x" * 118, USD=10)
    assert len(wallet) == 128
    hold_id = "@" * 128
    assert (await server.authorize(wallet, hold_id, USD=3)).decision == pb.DECISION_APPROVED
    reply = await server.commit(wallet, hold_id, USD=3)
    assert reply.hold.hold_id == hold_id
    await server.debits(wallet, at_least=1)
    await server.assert_conserved(wallet)


async def test_amounts_up_to_two_to_the_53(server: Server) -> None:
    most = 2**53 - 1
    wallet = await server.wallet(USD=most)
    reply = await server.authorize(wallet, "h1", USD=most)
    assert balances_of(reply.balances) == {"USD": (most, most, 0)}
    reply = await server.commit(wallet, "h1", USD=most - 1)
    assert balances_of(reply.balances) == {"USD": (1, 0, 1)}
    assert sum(entry.units for entry in await server.debits(wallet, at_least=1)) == most - 1
    await server.assert_conserved(wallet)


async def test_sixteen_assets_subjects_and_labels_in_one_hold(server: Server) -> None:
    codes = [f"A{number}" for number in range(16)]
    for code in codes:
        await server.call(asset_pb.CreateAssetRequest(asset=code))
    units = dict.fromkeys(codes, 3)
    wallet = await server.wallet(**units)
    request = authorize_request(wallet, "h1", **units)
    request.subjects.extend(f"{'s' * 120}:{number}" for number in range(16))
    request.labels.update({f"{number:x<64}": "ü" * 256 for number in range(16)})
    reply = await server.call(request)
    assert reply.decision == pb.DECISION_APPROVED
    await server.commit(wallet, "h1", **units)
    debits = await server.debits(wallet, at_least=16)
    assert {entry.asset for entry in debits} == set(codes)
    assert list(debits[0].subjects) == list(request.subjects)
    assert debits[0].labels == request.labels
    await server.assert_conserved(wallet)
