"""What AuthorizationService answers: replies of the scripts, and what the ledger remembers of a hold, as protos."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import types_pb2
from drawdown_server.holds.labels import labels_text
from drawdown_server.holds.model import ExpiryAction, Hold, HoldAmount, HoldState, OveragePolicy
from drawdown_server.rpc import convert

if TYPE_CHECKING:
    from drawdown_server.holds.messages import AuthorizeReply, SettleReply
    from drawdown_server.ledger.events import Event
    from drawdown_server.ledger.rows import SettledHoldRow


def denial_proto(reply: AuthorizeReply) -> pb.Denial:
    """Why not. What a cap denied may succeed when its window ends; when funds will come nobody knows."""
    return pb.Denial(
        reason=f"DENIAL_REASON_{reply.reason}",
        asset=reply.asset,
        required_units=reply.required,
        available_units=reply.available,
        cap=None if reply.cap is None else convert.cap_status(reply.cap),
        retry_time=None if reply.cap is None else convert.timestamp(reply.cap.reset_ms),
    )


def authorize_response(wallet_id: str, reply: AuthorizeReply, hold_token: bytes) -> pb.AuthorizeResponse:
    """The answer of Authorize."""
    if reply.hold is None:
        return pb.AuthorizeResponse(
            decision=pb.DECISION_DENIED,
            denial=denial_proto(reply),
            balances=convert.balances(reply.balances),
            replayed=reply.replayed,
        )
    response = pb.AuthorizeResponse(
        decision=pb.DECISION_APPROVED, replayed=reply.replayed, alternative_index=reply.hold.way
    )
    convert.write_hold(response.hold, wallet_id, reply.hold, hold_token)
    convert.write_balances(response.balances, reply.balances)
    if reply.observed:
        response.observed_caps.extend(map(convert.cap_status, reply.observed))
    return response


def extend_response(wallet_id: str, reply: AuthorizeReply, hold: Hold, hold_token: bytes) -> pb.ExtendResponse:
    """The answer of Extend; a denied raise shows the hold as it still is."""
    is_denied = reply.status == "DENIED"
    return pb.ExtendResponse(
        decision=pb.DECISION_DENIED if is_denied else pb.DECISION_APPROVED,
        denial=denial_proto(reply) if is_denied else None,
        hold=convert.hold(wallet_id, hold, hold_token),
        balances=convert.balances(reply.balances),
        observed_caps=[convert.cap_status(cap) for cap in reply.observed],
    )


def charge_response(wallet_id: str, reply: AuthorizeReply, *, in_ledger: bool) -> pb.ChargeResponse:
    """The answer of Charge."""
    hold = reply.hold
    if hold is None:
        return pb.ChargeResponse(
            decision=pb.DECISION_DENIED,
            denial=denial_proto(reply),
            balances=convert.balances(reply.balances),
            replayed=reply.replayed,
        )
    return pb.ChargeResponse(
        decision=pb.DECISION_APPROVED,
        hold=convert.hold(wallet_id, hold),
        debited=_debited(hold),
        uncollected=_uncollected(hold),
        balances=convert.balances(reply.balances),
        wallet_sequence=hold.wallet_sequence,
        replayed=reply.replayed,
        observed_caps=[convert.cap_status(cap) for cap in reply.observed],
        in_ledger=in_ledger,
    )


def commit_response(wallet_id: str, reply: SettleReply, *, in_ledger: bool) -> pb.CommitResponse:
    """The answer of Commit."""
    hold = reply.hold
    assert hold is not None  # noqa: S101  # commit.lua: OK carries the hold
    response = pb.CommitResponse(
        debited=_debited(hold),
        released=_released(hold),
        uncollected=_uncollected(hold),
        wallet_sequence=hold.wallet_sequence,
        late=hold.late,
        replayed=reply.replayed,
        in_ledger=in_ledger,
    )
    convert.write_hold(response.hold, wallet_id, hold)
    convert.write_balances(response.balances, reply.balances)
    return response


def recorded_hold(row: SettledHoldRow) -> Hold:
    """A hold that only the ledger remembers: its expiry and policies are gone, its money is not."""
    return Hold(
        hold_id=row.hold_id,
        state=HoldState(row.state),
        fingerprint="",
        amounts=[
            HoldAmount(
                asset=amount.asset,
                authorized=amount.authorized,
                held=0,
                debited=amount.debited,
                uncollected=amount.uncollected,
                refunded=amount.refunded,
                overage_policy=OveragePolicy.REJECT,
            )
            for amount in row.amounts
        ],
        create_ms=row.create_ms,
        expire_ms=0,
        settle_ms=row.settle_ms,
        subjects=row.subjects,
        expiry_action=ExpiryAction.RELEASE,
        labels=labels_text(row.labels),
        late=row.late,
        wallet_sequence=row.wallet_sequence,
        way=0,
    )


def dead_hold(event: Event) -> Hold:
    """A hold whose Commit waits in dead_letters. It has no place in the wallet's history yet."""
    return Hold(
        hold_id=event.hold_id,
        state=HoldState.COMMITTED if event.final else HoldState.EXPIRED,
        fingerprint="",
        amounts=[
            HoldAmount(
                asset=amount.asset,
                authorized=amount.authorized,
                held=0,
                debited=amount.debited,
                uncollected=amount.uncollected,
                refunded=0,
                overage_policy=OveragePolicy.REJECT,
            )
            for amount in event.amounts
        ],
        create_ms=event.hold_create_ms,
        expire_ms=0,
        settle_ms=event.time_ms,
        subjects=event.subjects,
        expiry_action=ExpiryAction.RELEASE,
        labels=event.labels,
        late=event.late,
        wallet_sequence=0,
        way=0,
    )


def _debited(hold: Hold) -> list[types_pb2.Amount]:
    return [types_pb2.Amount(asset=amount.asset, units=amount.debited) for amount in hold.amounts]


def _uncollected(hold: Hold) -> list[types_pb2.Amount]:
    return [
        types_pb2.Amount(asset=amount.asset, units=amount.uncollected) for amount in hold.amounts if amount.uncollected
    ]


def _released(hold: Hold) -> list[types_pb2.Amount]:
    """What a final Commit gave back. A late hold's units were given back when it expired, not by this Commit."""
    if hold.late or hold.state is not HoldState.COMMITTED:
        return []
    return [
        types_pb2.Amount(asset=amount.asset, units=max(0, amount.authorized - amount.debited - amount.uncollected))
        for amount in hold.amounts
    ]
