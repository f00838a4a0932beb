"""GrantService: money in, and what an operator does to it later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drawdown.v1 import grant_service_pb2 as pb
from drawdown.v1 import grant_service_pb2_grpc as pb_grpc
from drawdown.v1 import types_pb2
from drawdown_server.holds.refusals import grant_not_found, wallet_not_found
from drawdown_server.identity.caller import current_tenant
from drawdown_server.rpc import convert
from drawdown_server.rpc.paging import decode_token, encode_token
from drawdown_server.rpc.validation import PRIORITY_MAX, Checks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import grpc

    from drawdown_server.ledger.rows import GrantRow
    from drawdown_server.ledger.store import LedgerStore
    from drawdown_server.wallets.admin import WalletAdmin

PRIORITY_DEFAULT: Final = 50
"""The middle, so that there is room before and after."""


def grant_proto(row: GrantRow) -> types_pb2.Grant:
    """A Grant."""
    return types_pb2.Grant(
        wallet_id=row.wallet_id,
        grant_id=row.grant_id,
        asset=row.asset,
        units=row.units,
        remaining_units=row.remaining_units,
        priority=row.priority,
        source=convert.GRANT_SOURCES[row.source],
        effective_time=convert.timestamp(row.effective_ms),
        expire_time=convert.timestamp(row.expire_ms),
        labels=row.labels,
        create_time=convert.timestamp(row.create_ms),
        void_time=convert.timestamp(row.void_ms),
    )


def check_create_grant(request: pb.CreateGrantRequest) -> tuple[Checks, int, int]:
    """Check the fields of CreateGrant; returns what was found so far, effective_ms and expire_ms (0 = unset)."""
    checks = Checks()
    checks.id("wallet_id", request.wallet_id)
    checks.id("grant_id", request.grant_id)
    checks.asset("asset", request.asset)
    checks.units("units", request.units, least=1)
    if request.HasField("priority") and not 0 <= request.priority <= PRIORITY_MAX:
        checks.fail("priority", f"must be 0 .. {PRIORITY_MAX}")
    checks.enum("source", request.source, types_pb2.GrantSource.values(), required=True)
    effective_ms = checks.time("effective_time", request.effective_time) if request.HasField("effective_time") else 0
    expire_ms = checks.time("expire_time", request.expire_time) if request.HasField("expire_time") else 0
    if 0 < expire_ms <= effective_ms:
        checks.fail("expire_time", "must be after effective_time")
    checks.labels("labels", request.labels)
    return checks, effective_ms, expire_ms


class GrantService(pb_grpc.GrantServiceServicer):
    """Create, read, list, void, set the expiry.

    Args:
        clock_of: The clock that a wallet of a tenant goes by.
    """

    def __init__(self, admin: WalletAdmin, ledger: LedgerStore, clock_of: Callable[[str, str], Awaitable[int]]) -> None:
        self._admin = admin
        self._ledger = ledger
        self._clock_of = clock_of

    async def CreateGrant(  # noqa: N802  # gRPC's name
        self,
        request: pb.CreateGrantRequest,
        context: grpc.aio.ServicerContext[pb.CreateGrantRequest, pb.CreateGrantResponse],
    ) -> pb.CreateGrantResponse:
        """Put funds into a wallet."""
        checks, effective_ms, expire_ms = check_create_grant(request)
        tenant_id = current_tenant()
        is_past = expire_ms and expire_ms <= await self._clock_of(tenant_id, request.wallet_id)
        if is_past and not await self._exists(tenant_id, request):
            checks.fail("expire_time", "must be in the future")
        checks.finish()
        row, balance, replayed = await self._admin.create_grant(
            tenant_id,
            wallet_id=request.wallet_id,
            grant_id=request.grant_id,
            asset=request.asset,
            units=request.units,
            priority=request.priority if request.HasField("priority") else PRIORITY_DEFAULT,
            source=convert.SOURCES_BY_NUMBER[request.source],
            effective_ms=effective_ms,
            expire_ms=expire_ms,
            labels=dict(request.labels),
        )
        return pb.CreateGrantResponse(grant=grant_proto(row), balance=convert.balance(balance), replayed=replayed)

    async def VoidGrant(  # noqa: N802
        self, request: pb.VoidGrantRequest, context: grpc.aio.ServicerContext[pb.VoidGrantRequest, pb.VoidGrantResponse]
    ) -> pb.VoidGrantResponse:
        """Take back what is left of a grant."""
        checks = _check_grant_name(request)
        checks.text("reason", request.reason)
        checks.finish()
        row, balance = await self._admin.void_grant(
            current_tenant(), request.wallet_id, request.grant_id, request.reason
        )
        return pb.VoidGrantResponse(grant=grant_proto(row), balance=convert.balance(balance))

    async def SetGrantExpiry(  # noqa: N802
        self,
        request: pb.SetGrantExpiryRequest,
        context: grpc.aio.ServicerContext[pb.SetGrantExpiryRequest, pb.SetGrantExpiryResponse],
    ) -> pb.SetGrantExpiryResponse:
        """Change when a grant expires."""
        checks = _check_grant_name(request)
        expire_ms = checks.time("expire_time", request.expire_time) if request.HasField("expire_time") else 0
        checks.text("reason", request.reason)
        checks.finish()
        row, balance = await self._admin.set_grant_expiry(
            current_tenant(), request.wallet_id, request.grant_id, expire_ms, request.reason
        )
        return pb.SetGrantExpiryResponse(grant=grant_proto(row), balance=convert.balance(balance))

    async def _exists(self, tenant_id: str, request: pb.CreateGrantRequest) -> bool:
        """Whether the grant was made before: repeating its request is no error, however late."""
        return await self._ledger.get_grant(tenant_id, request.wallet_id, request.grant_id) is not None

    async def GetGrant(  # noqa: N802
        self, request: pb.GetGrantRequest, context: grpc.aio.ServicerContext[pb.GetGrantRequest, pb.GetGrantResponse]
    ) -> pb.GetGrantResponse:
        """Read a grant."""
        _check_grant_name(request).finish()
        row = await self._ledger.get_grant(current_tenant(), request.wallet_id, request.grant_id)
        if row is None:
            raise grant_not_found(request.wallet_id, request.grant_id)
        return pb.GetGrantResponse(grant=grant_proto(row))

    async def ListGrants(  # noqa: N802
        self,
        request: pb.ListGrantsRequest,
        context: grpc.aio.ServicerContext[pb.ListGrantsRequest, pb.ListGrantsResponse],
    ) -> pb.ListGrantsResponse:
        """List the grants of a wallet, oldest first."""
        checks = Checks()
        checks.id("wallet_id", request.wallet_id)
        checks.asset("asset", request.asset, optional=True)
        limit = checks.page_size("page_size", request.page_size)
        checks.finish()
        filters = ("grants", request.wallet_id, request.asset)
        (after,) = decode_token(request.page_token, filters, tuple[int], (0,))
        tenant_id = current_tenant()
        rows = await self._ledger.list_grants(
            tenant_id, request.wallet_id, asset=request.asset, after_change_number=after, limit=limit
        )
        if not rows and await self._ledger.get_wallet(tenant_id, request.wallet_id) is None:
            raise wallet_not_found(request.wallet_id)
        return pb.ListGrantsResponse(
            grants=[grant_proto(row) for row in rows],
            next_page_token=encode_token(filters, (rows[-1].change_number,)) if len(rows) == limit else "",
        )


def _check_grant_name(request: pb.GetGrantRequest | pb.VoidGrantRequest | pb.SetGrantExpiryRequest) -> Checks:
    """Start the checks of a request that names a grant."""
    checks = Checks()
    checks.id("wallet_id", request.wallet_id)
    checks.id("grant_id", request.grant_id)
    return checks
