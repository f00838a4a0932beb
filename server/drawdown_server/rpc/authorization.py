"""AuthorizationService: the data plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import authorization_service_pb2_grpc as pb_grpc
from drawdown.v1 import types_pb2
from drawdown_server.errors import StoreUnavailableError
from drawdown_server.holds.fingerprint import fingerprint
from drawdown_server.holds.messages import (
    AmountRequest,
    AuthorizeReply,
    AuthorizeRequest,
    CommitRequest,
    ListHoldsRequest,
    ReleaseRequest,
    SettleReply,
    TotalUsed,
)
from drawdown_server.holds.model import ExpiryAction, Hold, HoldAmount, HoldState, OveragePolicy
from drawdown_server.holds.store import HoldStore, HoldUnknownError, hold_committed
from drawdown_server.identity.caller import current_tenant
from drawdown_server.rpc import convert
from drawdown_server.rpc.paging import decode_token, encode_token
from drawdown_server.rpc.validation import SUBJECTS_MAX, Checks, check_hold_name

if TYPE_CHECKING:
    import grpc

    from drawdown_server.ledger.rows import SettledHoldRow
    from drawdown_server.ledger.store import LedgerStore
    from drawdown_server.wallets.assets import AssetRegistry


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldLimits:
    """Limits of holds, from the configuration."""

    ttl_default_ms: int
    open_holds_max: int
    tombstone_ms: int


class AuthorizationService(pb_grpc.AuthorizationServiceServicer):
    """Authorize, Commit, Release; GetHold, ListHolds.

    The ledger is asked only about holds that Redis no longer remembers, never on the hot path.
    """

    def __init__(self, holds: HoldStore, ledger: LedgerStore, assets: AssetRegistry, limits: HoldLimits) -> None:
        self._holds = holds
        self._ledger = ledger
        self._assets = assets
        self._limits = limits

    async def Authorize(  # noqa: N802  # gRPC's name
        self, request: pb.AuthorizeRequest, context: grpc.aio.ServicerContext[pb.AuthorizeRequest, pb.AuthorizeResponse]
    ) -> pb.AuthorizeResponse:
        """Place a hold."""
        ttl_ms = check_authorize(request, self._limits.ttl_default_ms)
        tenant_id = current_tenant()
        amounts = [
            AmountRequest(amount.asset, amount.units, await self._is_known(tenant_id, amount.asset))
            for amount in request.amounts
        ]
        labels = convert.labels_json(request.labels)
        reply = await self._holds.authorize(
            AuthorizeRequest(
                tenant_id=tenant_id,
                wallet_id=request.wallet_id,
                hold_id=request.hold_id,
                fingerprint=authorize_fingerprint(request, ttl_ms, labels),
                amounts=amounts,
                ttl_ms=ttl_ms,
                subjects=list(request.subjects),
                overage_policy=OveragePolicy.REJECT,
                expiry_action=ExpiryAction.RELEASE,
                labels=labels,
                open_holds_max=self._limits.open_holds_max,
                tombstone_ms=self._limits.tombstone_ms,
            )
        )
        return authorize_response(request.wallet_id, reply)

    async def Commit(  # noqa: N802
        self, request: pb.CommitRequest, context: grpc.aio.ServicerContext[pb.CommitRequest, pb.CommitResponse]
    ) -> pb.CommitResponse:
        """Debit what was used."""
        check_commit(request)
        tenant_id = current_tenant()
        totals = [TotalUsed(amount.asset, amount.units) for amount in request.amounts]
        try:
            reply = await self._holds.commit(
                CommitRequest(
                    tenant_id=tenant_id,
                    wallet_id=request.wallet_id,
                    hold_id=request.hold_id,
                    amounts=totals,
                    tombstone_ms=self._limits.tombstone_ms,
                )
            )
        except HoldUnknownError:
            reply = await self._replay_from_ledger(tenant_id, request, totals)
        return commit_response(request.wallet_id, reply)

    async def Release(  # noqa: N802
        self, request: pb.ReleaseRequest, context: grpc.aio.ServicerContext[pb.ReleaseRequest, pb.ReleaseResponse]
    ) -> pb.ReleaseResponse:
        """Give everything back."""
        checks = check_hold_name(request)
        checks.text("reason", request.reason)
        checks.finish()
        command = ReleaseRequest(
            tenant_id=current_tenant(),
            wallet_id=request.wallet_id,
            hold_id=request.hold_id,
            tombstone_ms=self._limits.tombstone_ms,
            bury=False,
        )
        try:
            reply = await self._holds.release(command)
        except HoldUnknownError:
            await self._refuse_if_committed(command)
            command.bury = True
            reply = await self._holds.release(command)
        assert reply.hold is not None  # noqa: S101  # release.lua: OK carries the hold
        return pb.ReleaseResponse(
            hold=convert.hold(request.wallet_id, reply.hold),
            balances=convert.balances(reply.balances),
            replayed=reply.replayed,
        )

    async def GetHold(  # noqa: N802
        self, request: pb.GetHoldRequest, context: grpc.aio.ServicerContext[pb.GetHoldRequest, pb.GetHoldResponse]
    ) -> pb.GetHoldResponse:
        """Read one hold."""
        check_hold_name(request).finish()
        tenant_id = current_tenant()
        try:
            hold = await self._holds.read_hold(tenant_id, request.wallet_id, request.hold_id)
        except HoldUnknownError:
            row = await self._ledger.get_settled_hold(tenant_id, request.wallet_id, request.hold_id)
            if row is None:
                raise
            hold = recorded_hold(row)
        return pb.GetHoldResponse(hold=convert.hold(request.wallet_id, hold))

    async def ListHolds(  # noqa: N802
        self, request: pb.ListHoldsRequest, context: grpc.aio.ServicerContext[pb.ListHoldsRequest, pb.ListHoldsResponse]
    ) -> pb.ListHoldsResponse:
        """List open holds."""
        checks = Checks()
        checks.id("wallet_id", request.wallet_id)
        limit = checks.page_size("page_size", request.page_size)
        checks.finish()
        filters = ("holds", request.wallet_id)
        after_ms, after_id = decode_token(request.page_token, filters, tuple[int, str], (0, ""))
        holds = await self._holds.list_holds(
            ListHoldsRequest(
                tenant_id=current_tenant(),
                wallet_id=request.wallet_id,
                after_ms=after_ms,
                after_id=after_id,
                limit=limit,
            )
        )
        has_more = len(holds) == limit
        return pb.ListHoldsResponse(
            holds=[convert.hold(request.wallet_id, hold) for hold in holds],
            next_page_token=encode_token(filters, (holds[-1].expire_ms, holds[-1].hold_id)) if has_more else "",
        )

    async def _is_known(self, tenant_id: str, asset: str) -> bool:
        if self._assets.peek(tenant_id, asset) is not None:
            return True
        try:
            return await self._assets.find(tenant_id, asset) is not None
        except StoreUnavailableError:
            return True  # holds go on without Postgres: the script denies what the wallet has none of

    async def _replay_from_ledger(
        self, tenant_id: str, request: pb.CommitRequest, totals: list[TotalUsed]
    ) -> SettleReply:
        """The answer to a repeated Commit of a hold that Redis has forgotten: the ledger has it for ever."""
        row = await self._ledger.get_settled_hold(tenant_id, request.wallet_id, request.hold_id)
        if row is None:
            raise HoldUnknownError(request.wallet_id, request.hold_id)
        committed = {amount.asset: amount.debited + amount.uncollected for amount in row.amounts}
        if committed != dict.fromkeys(committed, 0) | {total.asset: total.units for total in totals}:
            raise hold_committed(request.wallet_id, request.hold_id)
        reading = await self._holds.read(tenant_id, request.wallet_id, assets=list(committed))
        return SettleReply(status="OK", hold=recorded_hold(row), balances=reading.balances, replayed=True)

    async def _refuse_if_committed(self, command: ReleaseRequest) -> None:
        """Raise if the ledger knows the hold: Redis forgets a committed one only when the ledger has it."""
        row = await self._ledger.get_settled_hold(command.tenant_id, command.wallet_id, command.hold_id)
        if row is not None:
            raise hold_committed(command.wallet_id, command.hold_id)


def check_authorize(request: pb.AuthorizeRequest, ttl_default_ms: int) -> int:
    """Check the fields of Authorize; returns the ttl in milliseconds.

    Raises:
        InvalidRequestError: With every violation.
    """
    checks = check_hold_name(request)
    checks.amounts("amounts", request.amounts, least=1)
    for i, amount in enumerate(request.amounts):
        if amount.min_units != 0:
            checks.unsupported(f"amounts[{i}].min_units", "is not available yet: must be 0")
    ttl_ms = checks.ttl("ttl", request.ttl) if request.HasField("ttl") else ttl_default_ms
    checks.unique_ids("subjects", request.subjects, most=SUBJECTS_MAX)
    if request.alternatives:
        checks.unsupported("alternatives", "is not available yet: must be empty")
    checks.enum("overage_policy", request.overage_policy, types_pb2.OveragePolicy.values())
    if request.overage_policy in (
        types_pb2.OVERAGE_POLICY_CHARGE_AVAILABLE,
        types_pb2.OVERAGE_POLICY_CHARGE_FULL,
    ):
        checks.unsupported("overage_policy", "is not available yet: must be REJECT")
    checks.enum("expiry_action", request.expiry_action, types_pb2.ExpiryAction.values())
    if request.expiry_action == types_pb2.EXPIRY_ACTION_COMMIT_FULL:
        checks.unsupported("expiry_action", "is not available yet: must be RELEASE")
    checks.labels("labels", request.labels)
    checks.finish()
    return ttl_ms


def check_commit(request: pb.CommitRequest) -> None:
    """Check the fields of Commit.

    Raises:
        InvalidRequestError: With every violation.
    """
    checks = check_hold_name(request)
    checks.amounts("amounts", request.amounts, least=0)
    for i, amount in enumerate(request.amounts):
        if amount.min_units != 0:
            checks.fail(f"amounts[{i}].min_units", "must be 0: it belongs to Authorize")
    if request.HasField("final") and not request.final:
        checks.unsupported("final", "is not available yet: must be true")
    if request.hold_token:
        checks.unsupported("hold_token", "is not available yet: must be empty")
    checks.finish()


def authorize_fingerprint(request: pb.AuthorizeRequest, ttl_ms: int, labels: str) -> str:
    """The content of the request; the order of amounts and subjects does not count."""
    return fingerprint(
        {
            "amounts": " ".join(sorted(f"{amount.asset}={amount.units}" for amount in request.amounts)),
            "ttl": str(ttl_ms),
            "subjects": " ".join(sorted(request.subjects)),
            "overage_policy": str(request.overage_policy or ""),
            "expiry_action": str(request.expiry_action or ""),
            "labels": labels,
        }
    )


def authorize_response(wallet_id: str, reply: AuthorizeReply) -> pb.AuthorizeResponse:
    """The answer of Authorize."""
    if reply.hold is not None:
        return pb.AuthorizeResponse(
            decision=pb.DECISION_APPROVED,
            hold=convert.hold(wallet_id, reply.hold),
            balances=convert.balances(reply.balances),
            replayed=reply.replayed,
        )
    return pb.AuthorizeResponse(
        decision=pb.DECISION_DENIED,
        denial=pb.Denial(
            reason=f"DENIAL_REASON_{reply.reason}",
            asset=reply.asset,
            required_units=reply.required,
            available_units=reply.available,
        ),
        balances=convert.balances(reply.balances),
        replayed=reply.replayed,
    )


def commit_response(wallet_id: str, reply: SettleReply) -> pb.CommitResponse:
    """The answer of Commit."""
    hold = reply.hold
    assert hold is not None  # noqa: S101  # commit.lua: OK carries the hold
    return pb.CommitResponse(
        hold=convert.hold(wallet_id, hold),
        debited=[types_pb2.Amount(asset=amount.asset, units=amount.debited) for amount in hold.amounts],
        # What a late hold had was given back when it expired, not by this Commit.
        released=[]
        if hold.late
        else [
            types_pb2.Amount(asset=amount.asset, units=amount.authorized - amount.debited) for amount in hold.amounts
        ],
        uncollected=[
            types_pb2.Amount(asset=amount.asset, units=amount.uncollected)
            for amount in hold.amounts
            if amount.uncollected
        ],
        balances=convert.balances(reply.balances),
        wallet_sequence=hold.wallet_sequence,
        late=hold.late,
        replayed=reply.replayed,
    )


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
            )
            for amount in row.amounts
        ],
        create_ms=row.create_ms,
        expire_ms=0,
        settle_ms=row.settle_ms,
        subjects=row.subjects,
        overage_policy=OveragePolicy.REJECT,
        expiry_action=ExpiryAction.RELEASE,
        labels=convert.labels_json(row.labels),
        late=row.late,
        wallet_sequence=row.wallet_sequence,
    )
