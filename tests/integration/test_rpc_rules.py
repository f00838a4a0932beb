"""The wallet rules as callers see them: every verb, policy and limit through real gRPC and real stores."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from drawdown.v1 import asset_service_pb2 as asset_pb
from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import balance_service_pb2 as balance_pb
from drawdown.v1 import cap_service_pb2 as cap_pb
from drawdown.v1 import grant_service_pb2 as grant_pb
from drawdown.v1 import types_pb2
from drawdown.v1 import wallet_service_pb2 as wallet_pb
from integration.server import amounts, commit_request, duration, grant_request, run_server, until

if TYPE_CHECKING:
    from drawdown_server.config import Config
    from integration.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

REJECT, AVAILABLE, FULL = 1, 2, 3
"""Overage policies by number."""
TOMBSTONE_MS = 1_000
"""The shortest: a settled hold is then known to the ledger alone."""


def at(seconds: float) -> Timestamp:
    """So many seconds from now."""
    time_ms = round((time.time() + seconds) * 1000)
    return Timestamp(seconds=time_ms // 1000, nanos=time_ms % 1000 * 1_000_000)


def amount(asset: str, units: int, min_units: int = 0) -> types_pb2.Amount:
    return types_pb2.Amount(asset=asset, units=units, min_units=min_units)


async def authorize(server: Server, wallet: str, hold_id: str, **fields: Any) -> pb.AuthorizeResponse:  # noqa: ANN401
    fields = {"ttl": duration(60)} | fields
    reply: pb.AuthorizeResponse = await server.call(pb.AuthorizeRequest(wallet_id=wallet, hold_id=hold_id, **fields))
    return reply


async def progress(server: Server, wallet: str, hold_id: str, **units: int) -> pb.CommitResponse:
    request = commit_request(wallet, hold_id, **units)
    request.final = False
    reply: pb.CommitResponse = await server.call(request)
    return reply


async def refund(server: Server, wallet: str, hold_id: str, refund_id: str, **units: int) -> pb.RefundResponse:
    reply: pb.RefundResponse = await server.call(
        pb.RefundRequest(wallet_id=wallet, hold_id=hold_id, refund_id=refund_id, amounts=amounts(**units))
    )
    return reply


async def stack(server: Server, wallet: str, asset: str = "USD") -> list[tuple[str, int, int]]:
    """(grant, available, held) in burn order."""
    request = balance_pb.GetBalanceRequest(wallet_id=wallet, assets=[asset], include_grants=True)
    balance = (await server.call(request)).balances[0]
    return [(grant.grant_id, grant.available_units, grant.held_units) for grant in balance.grants]


async def grant(server: Server, wallet: str, grant_id: str, units: int, **fields: Any) -> grant_pb.CreateGrantResponse:  # noqa: ANN401
    request = grant_request(wallet, grant_id, "USD", units)
    request.MergeFrom(grant_pb.CreateGrantRequest(**fields))
    reply: grant_pb.CreateGrantResponse = await server.call(request)
    return reply


async def set_cap(server: Server, wallet: str, limit: int, **fields: Any) -> types_pb2.Cap:  # noqa: ANN401
    request = cap_pb.SetCapRequest(wallet_id=wallet, asset="USD", limit_units=limit, window="CAP_WINDOW_DAY")
    request.MergeFrom(cap_pb.SetCapRequest(**fields))
    reply: cap_pb.SetCapResponse = await server.call(request)
    return reply.cap


async def usage(server: Server, wallet: str, *subjects: str) -> dict[tuple[str, str], int]:
    """Used units by (cap's subject, subject)."""
    reply = await server.call(cap_pb.ListCapsRequest(wallet_id=wallet, subjects=subjects))
    return {(status.cap_subject, status.subject): status.used_units for status in reply.usage}


# --- holds ---


async def test_the_first_affordable_way_to_pay_is_taken(server: Server) -> None:
    wallet = await server.wallet(USD=100, TOKENS=2)
    ways = [pb.Alternative(amounts=amounts(EUR=1)), pb.Alternative(amounts=amounts(USD=40))]
    indexes = []
    for n in range(4):
        reply = await authorize(server, wallet, f"h{n}", amounts=amounts(TOKENS=1), alternatives=ways)
        assert reply.decision == pb.DECISION_APPROVED
        assert reply.hold.alternative_index == reply.alternative_index
        indexes.append(reply.alternative_index)
    assert indexes == [0, 0, 2, 2]
    reply = await authorize(server, wallet, "h4", amounts=amounts(TOKENS=1), alternatives=ways)
    assert (reply.decision, reply.denial.asset) == (pb.DECISION_DENIED, "TOKENS")
    again = await authorize(server, wallet, "h3", amounts=amounts(TOKENS=1), alternatives=ways)
    assert (again.replayed, again.alternative_index) == (True, 2)
    failure = await server.failure(
        pb.AuthorizeRequest(
            wallet_id=wallet, hold_id="h3", amounts=amounts(TOKENS=1), alternatives=ways[::-1], ttl=duration(60)
        )
    )
    assert (failure.code, failure.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ID_REUSED")
    assert failure.metadata == {"resource": "hold", "id": "h3", "field": "alternatives"}
    assert (await server.get_hold(wallet, "h3")).alternative_index == 2
    await server.assert_conserved(wallet)


async def test_an_unknown_asset_is_no_obstacle_to_another_way(server: Server) -> None:
    wallet = await server.wallet(USD=100)
    other = [pb.Alternative(amounts=amounts(USD=1))]
    reply = await authorize(server, wallet, "h", amounts=amounts(NOPE=1), alternatives=other)
    assert (reply.decision, reply.alternative_index) == (pb.DECISION_APPROVED, 1)


async def test_partial_approval_holds_what_there_is(server: Server) -> None:
    wallet = await server.wallet(USD=100)
    reply = await authorize(server, wallet, "h1", amounts=[amount("USD", 150, 60)])
    assert reply.hold.amounts[0].authorized_units == 100
    await server.release(wallet, "h1")
    await server.authorize(wallet, "h2", USD=50)
    reply = await authorize(server, wallet, "h3", amounts=[amount("USD", 150, 60)])
    assert (reply.denial.required_units, reply.denial.available_units) == (60, 50)
    failure = await server.failure(
        pb.AuthorizeRequest(wallet_id=wallet, hold_id="h1", amounts=[amount("USD", 150, 61)], ttl=duration(60))
    )
    assert failure.metadata == {"resource": "hold", "id": "h1", "field": "amounts"}
    await server.assert_conserved(wallet)


@pytest.mark.parametrize(
    ("policy", "debited", "uncollected", "debt"),
    [(AVAILABLE, 100, 30, 0), (FULL, 130, 0, 30)],
    ids=["available", "full"],
)
async def test_more_than_was_held_under_each_policy(
    server: Server, policy: int, debited: int, uncollected: int, debt: int
) -> None:
    wallet = await server.wallet(USD=100)
    held = await authorize(server, wallet, "h", amounts=amounts(USD=60), overage_policy=policy)
    assert held.hold.overage_policy == held.hold.amounts[0].overage_policy == policy
    reply = await server.commit(wallet, "h", USD=130)
    assert [a.units for a in reply.debited] == [debited]
    assert [a.units for a in reply.uncollected] == ([uncollected] if uncollected else [])
    assert [a.units for a in reply.released] == [0]
    balance = await server.balance(wallet)
    assert (balance.settled_units, balance.debt_units, balance.available_units) == (-debt, debt, -debt)
    await server.assert_conserved(wallet)
    # The next grant repays the debt first.
    assert (await server.grant(wallet, "next", "USD", 50)).balance.available_units == 50 - debt
    kinds = [entry.kind for entry in await until(lambda: entries_of_grant(server, wallet, "next"))]
    assert (types_pb2.ENTRY_KIND_REPAY in kinds) == (debt > 0)
    await server.assert_conserved(wallet)


async def entries_of_grant(server: Server, wallet: str, grant_id: str) -> list[types_pb2.Entry]:
    return [entry for entry in await server.entries(wallet) if entry.grant_id == grant_id]


async def test_reject_leaves_the_hold_untouched(server: Server) -> None:
    wallet = await server.wallet(USD=100)
    await authorize(server, wallet, "h", amounts=amounts(USD=60), overage_policy=REJECT)
    failure = await server.failure(commit_request(wallet, "h", USD=61))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "EXCEEDS_HOLD")
    assert (await server.commit(wallet, "h", USD=60)).hold.state == types_pb2.HOLD_STATE_COMMITTED


async def test_the_assets_own_policy_is_the_default(server: Server) -> None:
    for asset, policy in (("DEF", 0), ("LAX", FULL)):
        reply = await server.call(asset_pb.CreateAssetRequest(asset=asset, scale=0, default_overage_policy=policy))
        assert reply.asset.default_overage_policy == (policy or AVAILABLE)
    wallet = await server.wallet(DEF=10, LAX=10, USD=10)
    reply = await authorize(server, wallet, "h", amounts=amounts(DEF=1, LAX=1, USD=1))
    assert [a.overage_policy for a in reply.hold.amounts] == [AVAILABLE, FULL, REJECT]
    assert reply.hold.overage_policy == types_pb2.OVERAGE_POLICY_UNSPECIFIED
    failure = await server.failure(asset_pb.CreateAssetRequest(asset="DEF", scale=0, default_overage_policy=FULL))
    assert failure.metadata is not None
    assert failure.metadata["field"] == "default_overage_policy"
    await server.assert_conserved(wallet)


async def test_progress_debits_at_once_and_holds_the_rest(server: Server) -> None:
    wallet = await server.wallet(USD=100)
    await server.authorize(wallet, "h", USD=60)
    for total in (10, 25, 25, 40):
        reply = await progress(server, wallet, "h", USD=total)
        hold = reply.hold.amounts[0]
        assert (reply.hold.state, hold.debited_units, hold.held_units) == (types_pb2.HOLD_STATE_HELD, total, 60 - total)
        assert (list(reply.released), reply.wallet_sequence) == ([], reply.hold.wallet_sequence)
    failure = await server.failure(commit_request(wallet, "h", USD=39))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TOTAL_BELOW_DEBITED")
    assert failure.metadata == {
        "wallet_id": wallet, "hold_id": "h", "asset": "USD", "units": "39", "debited_units": "40",
    }  # fmt: skip
    balance = await server.balance(wallet)
    assert (balance.settled_units, balance.held_units, balance.available_units) == (60, 20, 40)
    reply = await server.commit(wallet, "h", USD=45)
    assert [a.units for a in reply.released] == [15]
    assert sum(entry.units for entry in await server.debits(wallet, at_least=4)) == 45
    await server.assert_conserved(wallet)


async def test_a_stream_that_is_cut_off_keeps_what_it_debited(server: Server) -> None:
    wallet = await server.wallet(USD=100)
    await server.authorize(wallet, "h", USD=60)
    await progress(server, wallet, "h", USD=10)
    reply = await server.release(wallet, "h")
    assert (reply.hold.state, reply.hold.amounts[0].debited_units) == (types_pb2.HOLD_STATE_RELEASED, 10)
    assert (await server.balance(wallet)).available_units == 90
    await server.assert_conserved(wallet)


async def test_extend_by_time_and_by_units(server: Server) -> None:
    wallet = await server.wallet(USD=100)
    first = (await server.authorize(wallet, "h", ttl_s=10, USD=60)).hold
    reply = await server.call(
        pb.ExtendRequest(wallet_id=wallet, hold_id="h", ttl=duration(100), amounts=amounts(USD=80))
    )
    assert (reply.decision, reply.hold.amounts[0].held_units) == (pb.DECISION_APPROVED, 80)
    assert reply.hold.expire_time.ToMilliseconds() > first.expire_time.ToMilliseconds() + 80_000
    assert reply.balances[0].available_units == 20
    reply = await server.call(pb.ExtendRequest(wallet_id=wallet, hold_id="h", amounts=amounts(USD=101)))
    assert (reply.decision, reply.denial.reason) == (pb.DECISION_DENIED, pb.DENIAL_REASON_INSUFFICIENT_FUNDS)
    assert (reply.denial.required_units, reply.denial.available_units) == (21, 20)
    assert reply.hold == await server.get_hold(wallet, "h")
    assert reply.hold.amounts[0].held_units == 80
    failure = await server.failure(pb.ExtendRequest(wallet_id=wallet, hold_id="h", amounts=amounts(USD=79)))
    assert (failure.reason, failure.metadata) == (
        "BELOW_HOLD",
        {"wallet_id": wallet, "hold_id": "h", "asset": "USD", "units": "79", "authorized_units": "80"},
    )
    failure = await server.failure(pb.ExtendRequest(wallet_id=wallet, hold_id="h", amounts=amounts(EUR=1)))
    assert failure.reason == "ASSET_NOT_HELD"
    await server.commit(wallet, "h", USD=80)
    failure = await server.failure(pb.ExtendRequest(wallet_id=wallet, hold_id="h", ttl=duration(100)))
    assert failure.reason == "HOLD_COMMITTED"
    failure = await server.failure(pb.ExtendRequest(wallet_id=wallet, hold_id="nobody", ttl=duration(100)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "HOLD_NOT_FOUND")
    await server.assert_conserved(wallet)


async def test_a_hold_that_expires_into_a_debit(server: Server) -> None:
    wallet = await server.wallet(USD=100)
    reply = await authorize(
        server, wallet, "h", amounts=amounts(USD=60), ttl=duration(1), expiry_action="EXPIRY_ACTION_COMMIT_FULL"
    )
    assert reply.hold.expiry_action == types_pb2.EXPIRY_ACTION_COMMIT_FULL
    assert [entry.units for entry in await server.debits(wallet, at_least=1)] == [60]
    hold = await server.get_hold(wallet, "h")
    assert (hold.state, hold.amounts[0].debited_units) == (types_pb2.HOLD_STATE_COMMITTED, 60)
    await server.assert_conserved(wallet)


async def test_an_operator_frees_a_stuck_hold_and_its_usage_can_still_come(server: Server) -> None:
    wallet = await server.wallet(USD=100)
    await server.authorize(wallet, "h", USD=60)
    request = pb.ForceReleaseRequest(wallet_id=wallet, hold_id="h", reason="the gateway is gone")
    reply = await server.call(request)
    assert (reply.hold.state, reply.replayed) == (types_pb2.HOLD_STATE_EXPIRED, False)
    assert reply.balances[0].available_units == 100
    assert (await server.call(request)).replayed
    failure = await server.failure(pb.ExtendRequest(wallet_id=wallet, hold_id="h", ttl=duration(60)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "HOLD_EXPIRED")
    late = await server.commit(wallet, "h", USD=50)
    assert (late.late, [a.units for a in late.debited]) == (True, [50])
    assert (await server.failure(request)).reason == "HOLD_COMMITTED"
    request.hold_id = "nobody"
    assert (await server.failure(request)).reason == "HOLD_NOT_FOUND"
    await server.assert_conserved(wallet)


# --- charge and refund ---


async def test_charge_is_authorize_and_commit_in_one(server: Server) -> None:
    wallet = await server.wallet(USD=100)
    request = pb.ChargeRequest(
        wallet_id=wallet, charge_id="c", amounts=amounts(USD=30), subjects=["key:a"], labels={"run": "1"}
    )
    reply = await server.call(request)
    assert (reply.decision, [a.units for a in reply.debited]) == (pb.DECISION_APPROVED, [30])
    assert (reply.hold.state, reply.hold.hold_id) == (types_pb2.HOLD_STATE_COMMITTED, "c")
    assert reply.balances[0].available_units == 70
    assert reply.wallet_sequence == reply.hold.wallet_sequence > 0
    again = await server.call(request)
    assert (again.replayed, again.wallet_sequence) == (True, reply.wallet_sequence)
    request.amounts[0].units = 31
    failure = await server.failure(request)
    assert failure.metadata == {"resource": "charge", "id": "c", "field": "amounts"}
    failure = await server.failure(pb.AuthorizeRequest(wallet_id=wallet, hold_id="c", amounts=amounts(USD=30)))
    assert failure.reason == "ID_REUSED"
    [entry] = await server.debits(wallet, at_least=1)
    assert (entry.units, entry.hold_id, list(entry.subjects), dict(entry.labels)) == (30, "c", ["key:a"], {"run": "1"})
    await server.assert_conserved(wallet)


@pytest.mark.parametrize(("policy", "debited"), [(REJECT, None), (AVAILABLE, 100), (FULL, 130)])
async def test_a_charge_beyond_the_funds(server: Server, policy: int, debited: int | None) -> None:
    wallet = await server.wallet(USD=100)
    reply = await server.call(
        pb.ChargeRequest(wallet_id=wallet, charge_id="c", amounts=amounts(USD=130), overage_policy=policy)  # type: ignore[arg-type]
    )
    if debited is None:
        assert (reply.decision, reply.denial.reason) == (pb.DECISION_DENIED, pb.DENIAL_REASON_INSUFFICIENT_FUNDS)
        assert not reply.HasField("hold")
    else:
        assert [a.units for a in reply.debited] == [debited]
        assert [a.units for a in reply.uncollected] == ([130 - debited] if debited < 130 else [])
    await server.assert_conserved(wallet)


async def test_a_charge_to_an_unknown_wallet_is_denied(server: Server) -> None:
    reply = await server.call(pb.ChargeRequest(wallet_id="nobody", charge_id="c", amounts=amounts(USD=1)))
    assert reply.denial.reason == pb.DENIAL_REASON_WALLET_NOT_FOUND


async def test_a_refund_goes_back_to_the_grants_that_paid(server: Server) -> None:
    wallet = await server.wallet()
    await grant(server, wallet, "promo", 30, priority=1)
    await grant(server, wallet, "paid", 100)
    await server.authorize(wallet, "h", USD=50)
    await server.commit(wallet, "h", USD=50)
    assert await stack(server, wallet) == [("paid", 80, 0)]
    reply = await refund(server, wallet, "h", "r1", USD=35)  # at once: Postgres may not know the debit yet
    assert (reply.hold.amounts[0].refunded_units, reply.replayed) == (35, False)
    assert reply.balances[0].available_units == 115
    assert await stack(server, wallet) == [("promo", 15, 0), ("paid", 100, 0)]
    again = await refund(server, wallet, "h", "r1", USD=35)
    assert again.replayed
    failure = await server.failure(
        pb.RefundRequest(wallet_id=wallet, hold_id="h", refund_id="r1", amounts=amounts(USD=34))
    )
    assert (failure.code, failure.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ID_REUSED")
    assert failure.metadata == {"resource": "refund", "id": "r1", "field": "amounts"}
    failure = await server.failure(
        pb.RefundRequest(wallet_id=wallet, hold_id="h", refund_id="r2", amounts=amounts(USD=16))
    )
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "EXCEEDS_DEBITED")
    assert failure.metadata == {
        "wallet_id": wallet, "hold_id": "h", "asset": "USD", "units": "16", "refundable_units": "15",
    }  # fmt: skip
    await refund(server, wallet, "h", "r3", USD=15)
    assert await stack(server, wallet) == [("promo", 30, 0), ("paid", 100, 0)]
    await server.assert_conserved(wallet)


async def test_a_refund_of_a_hold_that_only_the_ledger_remembers(shared_config: Config) -> None:
    async with run_server(shared_config.model_copy(update={"tombstone_ms": TOMBSTONE_MS}), assets=False) as server:
        wallet = await server.wallet(USD=100)
        await set_cap(server, wallet, 1000)
        await server.authorize(wallet, "h", USD=100)
        await server.commit(wallet, "h", USD=100)
        await server.debits(wallet, at_least=1)

        async def forgotten() -> bool:  # the ledger does not remember the policy
            return (await server.get_hold(wallet, "h")).overage_policy == types_pb2.OVERAGE_POLICY_UNSPECIFIED

        await until(forgotten)
        assert await stack(server, wallet) == []
        reply = await refund(server, wallet, "h", "r1", USD=40)
        assert (reply.replayed, reply.hold.amounts[0].refunded_units) == (False, 40)
        assert await stack(server, wallet) == [("g-USD", 40, 0)]
        assert await usage(server, wallet) == {("", ""): 60}
        assert (await refund(server, wallet, "h", "r1", USD=40)).replayed
        await server.assert_conserved(wallet)
        failure = await server.failure(
            pb.RefundRequest(wallet_id=wallet, hold_id="nobody", refund_id="r", amounts=amounts(USD=1))
        )
        assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "HOLD_NOT_FOUND")


async def test_a_refund_long_after_gives_each_part_back_where_it_counts(shared_config: Config) -> None:
    async with run_server(shared_config.model_copy(update={"tombstone_ms": TOMBSTONE_MS}), assets=False) as server:
        wallet = await server.wallet(USD=100)
        await server.authorize(wallet, "h", USD=50)  # counts nowhere
        await set_cap(server, wallet, 1000)
        raised = await server.call(pb.ExtendRequest(wallet_id=wallet, hold_id="h", amounts=amounts(USD=80)))
        assert raised.decision == pb.DECISION_APPROVED
        await server.commit(wallet, "h", USD=80)
        await server.debits(wallet, at_least=1)

        async def forgotten() -> bool:
            return (await server.get_hold(wallet, "h")).overage_policy == types_pb2.OVERAGE_POLICY_UNSPECIFIED

        await until(forgotten)
        used = []
        for refund_id in ("r1", "r2", "r3"):
            await refund(server, wallet, "h", refund_id, USD=20)
            used.append((await usage(server, wallet))[("", "")])
        assert used == [10, 0, 0]  # the raise counted 30, and no more comes back
        await server.assert_conserved(wallet)


async def test_a_refund_after_the_grant_expired_expires_again(server: Server) -> None:
    wallet = await server.wallet()
    await grant(server, wallet, "short", 50)
    await server.authorize(wallet, "h", USD=50)
    await server.commit(wallet, "h", USD=50)
    await server.call(grant_pb.SetGrantExpiryRequest(wallet_id=wallet, grant_id="short", expire_time=at(-1)))
    reply = await refund(server, wallet, "h", "r", USD=50)
    assert (reply.balances[0].available_units, reply.hold.amounts[0].refunded_units) == (0, 50)

    async def kinds() -> list[int]:
        found = [entry.kind for entry in await server.entries(wallet)]
        return found if types_pb2.ENTRY_KIND_EXPIRE in found else []

    assert (await until(kinds))[-2:] == [types_pb2.ENTRY_KIND_REFUND, types_pb2.ENTRY_KIND_EXPIRE]
    await server.assert_conserved(wallet)


# --- grants ---


async def test_grants_burn_in_their_order(server: Server) -> None:
    wallet = await server.wallet()
    await grant(server, wallet, "never", 10)
    await grant(server, wallet, "late", 10, expire_time=at(7200))
    await grant(server, wallet, "soon", 10, expire_time=at(3600))
    await grant(server, wallet, "first", 10, priority=1)
    assert [line[0] for line in await stack(server, wallet)] == ["first", "soon", "late", "never"]
    await server.authorize(wallet, "h", USD=25)
    assert await stack(server, wallet) == [("first", 0, 10), ("soon", 0, 10), ("late", 5, 5), ("never", 10, 0)]
    await server.commit(wallet, "h", USD=12)
    assert await stack(server, wallet) == [("soon", 8, 0), ("late", 10, 0), ("never", 10, 0)]
    await server.assert_conserved(wallet)


async def test_a_grant_becomes_effective_and_expires_on_time(server: Server) -> None:
    wallet = await server.wallet()
    reply = await grant(server, wallet, "g", 10, effective_time=at(1), expire_time=at(2.5))
    assert reply.balance.available_units == 0
    assert reply.grant.expire_time.ToMilliseconds() - reply.grant.effective_time.ToMilliseconds() in range(1_400, 1_600)
    balance = (await server.call(balance_pb.GetBalanceRequest(wallet_id=wallet, include_grants=True))).balances[0]
    assert ([g.grant_id for g in balance.grants], [g.grant_id for g in balance.scheduled_grants]) == ([], ["g"])

    async def available(units: int) -> bool:
        return (await server.balance(wallet)).available_units == units

    await until(lambda: available(10))
    await until(lambda: available(0))

    async def expired() -> list[int]:
        kinds = [entry.kind for entry in await server.entries(wallet)]
        return kinds if len(kinds) == 2 else []

    assert await until(expired) == [types_pb2.ENTRY_KIND_GRANT, types_pb2.ENTRY_KIND_EXPIRE]
    await server.assert_conserved(wallet)


async def test_creating_a_grant_again_is_no_error_after_it_expired(server: Server) -> None:
    wallet = await server.wallet()
    request = grant_request(wallet, "g", "USD", 10)
    request.expire_time.CopyFrom(at(1))
    await server.call(request)

    async def over() -> bool:
        return (await server.balance(wallet)).settled_units == 0

    await until(over)
    assert (await server.call(request)).replayed


async def test_void_takes_free_units_now_and_held_ones_later(server: Server) -> None:
    wallet = await server.wallet(USD=100)
    await server.authorize(wallet, "h", USD=30)
    reply = await server.call(grant_pb.VoidGrantRequest(wallet_id=wallet, grant_id="g-USD", reason="fraud"))
    assert reply.grant.HasField("void_time")
    assert (reply.balance.available_units, reply.balance.held_units) == (0, 30)
    again = await server.call(grant_pb.VoidGrantRequest(wallet_id=wallet, grant_id="g-USD"))
    assert again.grant.void_time == reply.grant.void_time
    await server.commit(wallet, "h", USD=10)
    assert (await server.balance(wallet)).settled_units == 0
    failure = await server.failure(grant_pb.VoidGrantRequest(wallet_id=wallet, grant_id="nope"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "GRANT_NOT_FOUND")
    await server.assert_conserved(wallet)


async def test_the_expiry_of_a_grant_can_be_moved(server: Server) -> None:
    wallet = await server.wallet()
    await grant(server, wallet, "g", 10, expire_time=at(3600))
    reply = await server.call(grant_pb.SetGrantExpiryRequest(wallet_id=wallet, grant_id="g", reason="goodwill"))
    assert not reply.grant.HasField("expire_time")
    reply = await server.call(grant_pb.SetGrantExpiryRequest(wallet_id=wallet, grant_id="g", expire_time=at(-5)))
    assert (reply.balance.available_units, reply.grant.HasField("expire_time")) == (0, True)
    await server.assert_conserved(wallet)


# --- caps ---


async def test_a_default_cap_counts_for_each_subject(server: Server) -> None:
    wallet = await server.wallet(USD=1000)
    cap = await set_cap(server, wallet, 100, subject="key:*")
    assert (cap.subject, cap.limit_units, cap.mode) == ("key:*", 100, types_pb2.CAP_MODE_ENFORCE)
    reply = await authorize(server, wallet, "h1", amounts=amounts(USD=60), subjects=["key:a"])
    assert reply.decision == pb.DECISION_APPROVED
    reply = await authorize(server, wallet, "h2", amounts=amounts(USD=41), subjects=["key:a"])
    assert (reply.decision, reply.denial.reason) == (pb.DECISION_DENIED, pb.DENIAL_REASON_CAP_EXCEEDED)
    status = reply.denial.cap
    assert (status.cap_subject, status.subject, status.used_units, status.limit_units) == ("key:*", "key:a", 60, 100)
    assert reply.denial.retry_time == status.reset_time
    assert 0 <= status.reset_time.seconds - time.time() <= 86_400
    assert status.reset_time.seconds % 86_400 == 0
    assert (await authorize(server, wallet, "h3", amounts=amounts(USD=41), subjects=["key:b"])).hold.hold_id == "h3"
    assert await usage(server, wallet, "key:a", "key:b", "user:x") == {("key:*", "key:a"): 60, ("key:*", "key:b"): 41}
    await server.release(wallet, "h1")
    await server.commit(wallet, "h3", USD=11)
    assert await usage(server, wallet, "key:a", "key:b") == {("key:*", "key:a"): 0, ("key:*", "key:b"): 11}
    await refund(server, wallet, "h3", "r", USD=1)
    assert await usage(server, wallet, "key:b") == {("key:*", "key:b"): 10}
    await server.assert_conserved(wallet)


async def test_partial_approval_ends_at_the_cap(server: Server) -> None:
    wallet = await server.wallet(USD=1000)
    await set_cap(server, wallet, 100)
    reply = await authorize(server, wallet, "h", amounts=[amount("USD", 500, 1)])
    assert reply.hold.amounts[0].authorized_units == 100
    await server.assert_conserved(wallet)


async def test_an_observing_cap_only_tells(server: Server) -> None:
    wallet = await server.wallet(USD=1000)
    await set_cap(server, wallet, 10, mode="CAP_MODE_OBSERVE", window="CAP_WINDOW_MONTH")
    reply = await authorize(server, wallet, "h", amounts=amounts(USD=50))
    assert reply.decision == pb.DECISION_APPROVED
    [observed] = reply.observed_caps
    assert (observed.subject, observed.limit_units, observed.mode) == ("", 10, types_pb2.CAP_MODE_OBSERVE)
    reply = await server.call(pb.ChargeRequest(wallet_id=wallet, charge_id="c", amounts=amounts(USD=5)))
    assert [status.used_units for status in reply.observed_caps] == [50]
    reply = await server.call(pb.ExtendRequest(wallet_id=wallet, hold_id="h", amounts=amounts(USD=60)))
    assert len(reply.observed_caps) == 1
    await server.assert_conserved(wallet)


async def test_caps_are_listed_replaced_and_removed(server: Server) -> None:
    wallet = await server.wallet(USD=1000)
    await set_cap(server, wallet, 10, subject="key:*")
    await set_cap(server, wallet, 20, subject="key:a", window="CAP_WINDOW_PER_REQUEST")
    await set_cap(server, wallet, 30, window="CAP_WINDOW_LIFETIME")
    await set_cap(server, wallet, 40, window="CAP_WINDOW_LIFETIME")
    reply = await server.call(cap_pb.ListCapsRequest(wallet_id=wallet))
    assert [(cap.subject, cap.limit_units) for cap in reply.caps] == [("", 40), ("key:*", 10), ("key:a", 20)]
    assert not reply.usage[0].HasField("reset_time")
    reply = await authorize(server, wallet, "h", amounts=amounts(USD=25), subjects=["key:b"])
    assert reply.denial.cap.cap_subject == "key:*"
    for _ in range(2):  # the second time there is none
        await server.call(
            cap_pb.RemoveCapRequest(wallet_id=wallet, subject="key:*", asset="USD", window="CAP_WINDOW_DAY")
        )
    reply = await authorize(server, wallet, "h", amounts=amounts(USD=25), subjects=["key:b"])
    assert reply.decision == pb.DECISION_APPROVED
    failure = await server.failure(
        cap_pb.SetCapRequest(wallet_id=wallet, asset="NOPE", window="CAP_WINDOW_DAY", limit_units=1)
    )
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "ASSET_NOT_FOUND")
    for request in (
        cap_pb.SetCapRequest(wallet_id="nobody", asset="USD", window="CAP_WINDOW_DAY", limit_units=1),
        cap_pb.RemoveCapRequest(wallet_id="nobody", asset="USD", window="CAP_WINDOW_DAY"),
        cap_pb.ListCapsRequest(wallet_id="nobody"),
    ):
        assert (await server.failure(request)).reason == "WALLET_NOT_FOUND"


# --- overdraft and states ---


async def test_an_overdraft_is_usable_and_repaid(server: Server) -> None:
    wallet = await server.wallet(USD=10)
    reply = await server.call(wallet_pb.SetOverdraftLimitRequest(wallet_id=wallet, asset="USD", limit_units=50))
    assert (reply.balance.available_units, reply.balance.overdraft_limit_units) == (60, 50)
    assert (await server.authorize(wallet, "h0", USD=61)).denial.available_units == 60
    await server.authorize(wallet, "h", USD=40)
    await server.commit(wallet, "h", USD=40)
    balance = await server.balance(wallet)
    assert (balance.settled_units, balance.debt_units, balance.available_units) == (-30, 30, 20)
    await server.assert_conserved(wallet)
    assert (await server.grant(wallet, "g2", "USD", 100)).balance.settled_units == 70
    assert (await server.balance(wallet)).debt_units == 0
    await server.assert_conserved(wallet)


async def test_a_refund_of_debt_never_shows_as_negative_debt(server: Server) -> None:
    wallet = await server.wallet(USD=10)
    await server.call(
        pb.ChargeRequest(
            wallet_id=wallet, charge_id="c", amounts=amounts(USD=30), overage_policy="OVERAGE_POLICY_CHARGE_FULL"
        )
    )
    await server.grant(wallet, "g2", "USD", 20)
    reply = await refund(server, wallet, "c", "r", USD=30)
    assert reply.balances[0].settled_units == 30
    assert reply.balances[0].debt_units == 0
    await server.assert_conserved(wallet)


async def test_a_wallet_is_closed_when_it_is_empty_or_by_force(server: Server) -> None:
    wallet = await server.wallet(USD=10)
    failure = await server.failure(wallet_pb.CloseWalletRequest(wallet_id=wallet))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WALLET_NOT_EMPTY")
    held = await server.authorize(wallet, "h", USD=4)
    assert held.decision == pb.DECISION_APPROVED
    reply = await server.call(wallet_pb.CloseWalletRequest(wallet_id=wallet, force=True, reason="moved away"))
    assert reply.wallet.state == types_pb2.WALLET_STATE_CLOSED
    denied = await server.authorize(wallet, "h2", USD=1)
    assert denied.denial.reason == pb.DENIAL_REASON_WALLET_CLOSED
    charge = await server.call(pb.ChargeRequest(wallet_id=wallet, charge_id="c", amounts=amounts(USD=1)))
    assert charge.denial.reason == pb.DENIAL_REASON_WALLET_CLOSED
    raised = await server.call(pb.ExtendRequest(wallet_id=wallet, hold_id="h", amounts=amounts(USD=5)))
    assert raised.denial.reason == pb.DENIAL_REASON_WALLET_CLOSED
    assert (await server.failure(grant_request(wallet, "g2", "USD", 1))).reason == "WALLET_CLOSED"
    assert (await server.commit(wallet, "h", USD=4)).wallet_sequence > 0
    await server.assert_conserved(wallet)
    empty = await server.wallet()
    reply = await server.call(wallet_pb.CloseWalletRequest(wallet_id=empty))
    assert reply.wallet.state == types_pb2.WALLET_STATE_CLOSED


async def test_a_frozen_wallet_settles_and_refunds(server: Server) -> None:
    wallet = await server.wallet(USD=100)
    await server.authorize(wallet, "h", USD=40)
    await server.call(wallet_pb.FreezeWalletRequest(wallet_id=wallet))
    extended = await server.call(pb.ExtendRequest(wallet_id=wallet, hold_id="h", ttl=duration(600)))
    assert extended.decision == pb.DECISION_APPROVED
    raised = await server.call(pb.ExtendRequest(wallet_id=wallet, hold_id="h", amounts=amounts(USD=41)))
    assert raised.denial.reason == pb.DENIAL_REASON_WALLET_FROZEN
    await server.commit(wallet, "h", USD=40)
    assert (await refund(server, wallet, "h", "r", USD=40)).balances[0].available_units == 100
    await server.assert_conserved(wallet)
