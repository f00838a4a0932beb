"""AuthorizationService: the data plane. ``hold_checks`` reads its requests, ``hold_answers`` writes its answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import authorization_service_pb2_grpc as pb_grpc
from drawdown.v1 import types_pb2
from drawdown_server import deadline
from drawdown_server.errors import StoreUnavailableError
from drawdown_server.holds.fingerprint import refund_digest
from drawdown_server.holds.labels import labels_text
from drawdown_server.holds.messages import (
    AmountRequest,
    AuthorizeRequest,
    ChargeRequest,
    CommitRequest,
    ExtendRequest,
    ListHoldsRequest,
    RefundRequest,
    ReleaseRequest,
    TotalUsed,
)
from drawdown_server.holds.model import HoldState, OveragePolicy
from drawdown_server.holds.refusals import HoldUnknownError, hold_committed
from drawdown_server.identity.caller import current_caller, current_tenant
from drawdown_server.ledger.audit import hold_state, intent_id
from drawdown_server.ledger.confirming import HoldEvent
from drawdown_server.rpc import convert
from drawdown_server.rpc.hold_answers import (
    authorize_response,
    charge_response,
    commit_response,
    extend_response,
    recorded_hold,
)
from drawdown_server.rpc.hold_checks import (
    authorize_fingerprint,
    charge_fingerprint,
    check_authorize,
    check_charge,
    check_commit,
    check_extend,
    check_force_release,
    check_refund,
)
from drawdown_server.rpc.lost_holds import LostHolds
from drawdown_server.rpc.paging import decode_token, encode_token
from drawdown_server.rpc.refund_grants import grants_that_may_have_paid, refund
from drawdown_server.rpc.validation import Checks, check_hold_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    import grpc

    from drawdown_server.holds.messages import AuthorizeReply
    from drawdown_server.holds.model import Hold
    from drawdown_server.holds.store import HoldStore
    from drawdown_server.holds.token import TokenKeys
    from drawdown_server.ledger.confirming import Confirmations
    from drawdown_server.ledger.rows import AssetRow
    from drawdown_server.ledger.store import LedgerStore
    from drawdown_server.wallets.assets import AssetRegistry

log = structlog.get_logger(__name__)

ANSWER_S: Final = 0.05
"""Kept of a call's deadline for its answer to arrive."""
UNKNOWN_ASSET_POLICY: Final = OveragePolicy.REJECT
"""For an asset that does not exist: nothing is held of it, so nothing can be more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldLimits:
    """Limits of holds, from the configuration."""

    ttl_default_ms: int
    open_holds_max: int
    tombstone_ms: int
    outbox_backlog_limit: int


class AuthorizationService(pb_grpc.AuthorizationServiceServicer):
    """The life of a hold: Authorize, Extend, Commit, Release, Refund; Charge; ForceRelease; GetHold, ListHolds.

    The ledger is asked only about holds that Redis no longer remembers and for refunds, never on the hot path.
    """

    def __init__(
        self,
        holds: HoldStore,
        ledger: LedgerStore,
        assets: AssetRegistry,
        limits: HoldLimits,
        tokens: TokenKeys,
        confirmations: Confirmations,
    ) -> None:
        self._holds = holds
        self._ledger = ledger
        self._assets = assets
        self._limits = limits
        self._tokens = tokens
        self._confirmations = confirmations
        self._lost = LostHolds(holds, ledger, tombstone_ms=limits.tombstone_ms)

    async def Authorize(  # noqa: N802  # gRPC's name
        self, request: pb.AuthorizeRequest, context: grpc.aio.ServicerContext[pb.AuthorizeRequest, pb.AuthorizeResponse]
    ) -> pb.AuthorizeResponse:
        """Place a hold."""
        ttl_ms = check_authorize(request, self._limits.ttl_default_ms)
        tenant_id = current_tenant()
        labels = labels_text(request.labels)
        ways = [await self._amounts(tenant_id, request.amounts, request.overage_policy)]
        ways += [await self._amounts(tenant_id, way.amounts, request.overage_policy) for way in request.alternatives]
        command = AuthorizeRequest(
            tenant_id=tenant_id,
            wallet_id=request.wallet_id,
            hold_id=request.hold_id,
            fingerprint=authorize_fingerprint(request, ttl_ms, labels),
            ways=ways,
            ttl_ms=ttl_ms,
            subjects=list(request.subjects),
            expiry_action=convert.EXPIRY_ACTIONS_BY_NUMBER[request.expiry_action],
            labels=labels,
            open_holds_max=self._limits.open_holds_max,
            tombstone_ms=self._limits.tombstone_ms,
            outbox_backlog_limit=self._limits.outbox_backlog_limit,
        )
        reply = await self._holds.authorize(command)
        return authorize_response(request.wallet_id, reply, self._token(command, reply))

    async def Extend(  # noqa: N802
        self, request: pb.ExtendRequest, context: grpc.aio.ServicerContext[pb.ExtendRequest, pb.ExtendResponse]
    ) -> pb.ExtendResponse:
        """Keep a hold for longer, or hold more."""
        ttl_ms = check_extend(request)
        tenant_id = current_tenant()
        command = ExtendRequest(
            tenant_id=tenant_id,
            wallet_id=request.wallet_id,
            hold_id=request.hold_id,
            ttl_ms=ttl_ms,
            amounts=_totals(request.amounts),
            tombstone_ms=self._limits.tombstone_ms,
        )
        try:
            reply = await self._holds.extend(command)
        except HoldUnknownError:
            await self._refuse_if_committed(tenant_id, request.wallet_id, request.hold_id)
            raise
        hold = reply.hold or await self._holds.read_hold(tenant_id, request.wallet_id, request.hold_id)
        return extend_response(request.wallet_id, reply, hold, self._token(command, reply))

    async def Charge(  # noqa: N802
        self, request: pb.ChargeRequest, context: grpc.aio.ServicerContext[pb.ChargeRequest, pb.ChargeResponse]
    ) -> pb.ChargeResponse:
        """Debit at once."""
        check_charge(request)
        tenant_id = current_tenant()
        labels = labels_text(request.labels)
        reply = await self._holds.charge(
            ChargeRequest(
                tenant_id=tenant_id,
                wallet_id=request.wallet_id,
                hold_id=request.charge_id,
                fingerprint=charge_fingerprint(request, labels),
                amounts=await self._amounts(tenant_id, request.amounts, request.overage_policy),
                subjects=list(request.subjects),
                labels=labels,
                tombstone_ms=self._limits.tombstone_ms,
                outbox_backlog_limit=self._limits.outbox_backlog_limit,
            )
        )
        return charge_response(request.wallet_id, reply, in_ledger=await self._in_ledger(request, reply.hold))

    async def Commit(  # noqa: N802
        self, request: pb.CommitRequest, context: grpc.aio.ServicerContext[pb.CommitRequest, pb.CommitResponse]
    ) -> pb.CommitResponse:
        """Debit what was used."""
        tenant_id = current_tenant()
        token = check_commit(request, tenant_id, self._tokens)
        command = CommitRequest(
            tenant_id=tenant_id,
            wallet_id=request.wallet_id,
            hold_id=request.hold_id,
            amounts=_totals(request.amounts),
            final=request.final if request.HasField("final") else True,
            tombstone_ms=self._limits.tombstone_ms,
        )
        try:
            reply = await self._holds.commit(command)
        except HoldUnknownError as unknown:
            reply = await self._lost.commit(command, token, unknown)
        return commit_response(request.wallet_id, reply, in_ledger=await self._in_ledger(request, reply.hold))

    async def Release(  # noqa: N802
        self, request: pb.ReleaseRequest, context: grpc.aio.ServicerContext[pb.ReleaseRequest, pb.ReleaseResponse]
    ) -> pb.ReleaseResponse:
        """Give everything back."""
        checks = check_hold_name(request)
        checks.text("reason", request.reason)
        checks.finish()
        command = self._release(request, forced=False)
        try:
            reply = await self._holds.release(command)
        except HoldUnknownError:
            await self._refuse_if_committed(command.tenant_id, command.wallet_id, command.hold_id)
            command.bury = True
            reply = await self._holds.release(command)
        assert reply.hold is not None  # noqa: S101  # release.lua: OK carries the hold
        return pb.ReleaseResponse(
            hold=convert.hold(request.wallet_id, reply.hold),
            balances=convert.balances(reply.balances),
            replayed=reply.replayed,
        )

    async def ForceRelease(  # noqa: N802
        self,
        request: pb.ForceReleaseRequest,
        context: grpc.aio.ServicerContext[pb.ForceReleaseRequest, pb.ForceReleaseResponse],
    ) -> pb.ForceReleaseResponse:
        """Give back what a stuck hold holds."""
        check_force_release(request)
        command = self._release(request, forced=True)
        names = (command.tenant_id, command.wallet_id, command.hold_id)
        try:
            await self._record_intent(*names)
            reply = await self._holds.release(command)
        except HoldUnknownError:
            await self._refuse_if_committed(*names)
            raise
        if not reply.replayed:
            log.info(
                "hold.force_released", tenant_id=names[0], wallet_id=names[1], hold_id=names[2], reason=request.reason
            )
        assert reply.hold is not None  # noqa: S101  # release.lua: OK carries the hold
        return pb.ForceReleaseResponse(
            hold=convert.hold(request.wallet_id, reply.hold),
            balances=convert.balances(reply.balances),
            replayed=reply.replayed,
        )

    async def Refund(  # noqa: N802
        self, request: pb.RefundRequest, context: grpc.aio.ServicerContext[pb.RefundRequest, pb.RefundResponse]
    ) -> pb.RefundResponse:
        """Give debited units back."""
        check_refund(request)
        tenant_id = current_tenant()
        command = RefundRequest(
            tenant_id=tenant_id,
            wallet_id=request.wallet_id,
            hold_id=request.hold_id,
            refund_id=request.refund_id,
            digest=refund_digest({amount.asset: amount.units for amount in request.amounts}),
            amounts=_totals(request.amounts),
            grants=await grants_that_may_have_paid(self._ledger, tenant_id, request.wallet_id, request.hold_id),
            recorded=None,
            tombstone_ms=self._limits.tombstone_ms,
        )
        try:
            reply = await refund(self._holds, self._ledger, command)
        except HoldUnknownError:
            command.recorded = await self._ledger.recorded_hold(tenant_id, request.wallet_id, request.hold_id)
            if command.recorded is None:
                raise
            reply = await refund(self._holds, self._ledger, command)
        assert reply.hold is not None  # noqa: S101  # refund.lua: OK carries the hold
        return pb.RefundResponse(
            hold=convert.hold(request.wallet_id, reply.hold),
            balances=convert.balances(reply.balances),
            wallet_sequence=reply.hold.wallet_sequence,
            replayed=reply.replayed,
            in_ledger=await self._in_ledger(request, reply.hold),
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

    async def _amounts(
        self, tenant_id: str, amounts: Iterable[types_pb2.Amount], policy: types_pb2.OveragePolicy
    ) -> list[AmountRequest]:
        """A way to pay, each amount with its overage policy: the request's, or its asset's default."""
        chosen = convert.OVERAGE_POLICIES_BY_NUMBER.get(policy)
        found = []
        for amount in amounts:
            # Without a query, and without an await, when this process knows the asset.
            asset, known = self._assets.peek(tenant_id, amount.asset), True
            if asset is None:
                asset, known = await self._find_asset(tenant_id, amount.asset)
            found.append(
                AmountRequest(
                    asset=amount.asset,
                    units=amount.units,
                    min_units=amount.min_units,
                    overage_policy=chosen or (asset.default_overage_policy if asset else UNKNOWN_ASSET_POLICY),
                    known=known,
                )
            )
        return found

    async def _in_ledger(
        self, request: pb.CommitRequest | pb.ChargeRequest | pb.RefundRequest, hold: Hold | None
    ) -> bool:
        """Whether the ledger has the last event of the hold, if the caller wants to wait for it.

        What was done is done: the answer must not come too late to be heard.
        """
        if hold is None or hold.wallet_sequence == 0 or not request.HasField("wait_for_ledger"):
            return False
        event = HoldEvent(current_tenant(), request.wallet_id, hold.hold_id, hold.wallet_sequence)
        wait_s = request.wait_for_ledger.seconds + request.wait_for_ledger.nanos / 1e9
        return await self._confirmations.confirmed(event, min(wait_s, deadline.left_s() - ANSWER_S))

    def _token(self, command: AuthorizeRequest | ExtendRequest, reply: AuthorizeReply) -> bytes:
        """The token of the hold that a script has just answered, in the epoch in which it ran."""
        if reply.hold is None:
            return b""
        return self._tokens.make(command.tenant_id, command.wallet_id, int(command.epoch), reply.hold)

    def _release(self, request: pb.ReleaseRequest | pb.ForceReleaseRequest, *, forced: bool) -> ReleaseRequest:
        return ReleaseRequest(
            tenant_id=current_tenant(),
            wallet_id=request.wallet_id,
            hold_id=request.hold_id,
            tombstone_ms=self._limits.tombstone_ms,
            bury=False,
            forced=forced,
        )

    async def _record_intent(self, tenant_id: str, wallet_id: str, hold_id: str) -> None:
        """Record that an open hold is about to be released by force; of any other nothing is released.

        Raises:
            HoldUnknownError: Redis knows no such hold.
        """
        hold = await self._holds.read_hold(tenant_id, wallet_id, hold_id)
        if hold.state is HoldState.HELD:
            # A hold id may be used again later, so its time is part of the record's id; and who wants it, since the
            # first who did may have died over it.
            audit_id = intent_id("ForceRelease", wallet_id, hold_id, str(hold.create_ms), current_caller().principal)
            after = {**hold_state(hold), "state": HoldState.EXPIRED, "held": {}}
            await self._ledger.record_intent(audit_id, before=hold_state(hold), after=after)

    async def _find_asset(self, tenant_id: str, code: str) -> tuple[AssetRow | None, bool]:
        """The asset, and whether there is one. Without Postgres holds go on: the script denies what a wallet lacks."""
        try:
            asset = await self._assets.find(tenant_id, code)
        except StoreUnavailableError:
            return None, True
        return asset, asset is not None

    async def _refuse_if_committed(self, tenant_id: str, wallet_id: str, hold_id: str) -> None:
        """Raise if the ledger knows the hold: Redis forgets a committed one only when the ledger has it."""
        row = await self._ledger.get_settled_hold(tenant_id, wallet_id, hold_id)
        if row is not None and row.state is HoldState.COMMITTED:
            raise hold_committed(wallet_id, hold_id)


def _totals(amounts: Iterable[types_pb2.Amount]) -> list[TotalUsed]:
    return [TotalUsed(amount.asset, amount.units) for amount in amounts]
