"""GrantService: money in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drawdown.v1 import grant_service_pb2 as pb
from drawdown.v1 import grant_service_pb2_grpc as pb_grpc
from drawdown.v1 import types_pb2
from drawdown_server.errors import DrawdownError, ErrorReason
from drawdown_server.holds.store import wallet_not_found
from drawdown_server.identity.caller import current_tenant
from drawdown_server.rpc import convert
from drawdown_server.rpc.paging import decode_token, encode_token
from drawdown_server.rpc.validation import PRIORITY_MAX, Checks

if TYPE_CHECKING:
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
    )


def check_create_grant(request: pb.CreateGrantRequest) -> None:
    """Check the fields of CreateGrant.

    Raises:
        InvalidRequestError: With every violation.
    """
    checks = Checks()
    checks.id("wallet_id", request.wallet_id)
    checks.id("grant_id", request.grant_id)
    checks.asset("asset", request.asset)
    checks.units("units", request.units, least=1)
    if request.HasField("priority") and not 0 <= request.priority <= PRIORITY_MAX:
        checks.fail("priority", f"must be 0 .. {PRIORITY_MAX}")
    checks.enum("source", request.source, types_pb2.GrantSource.values(), required=True)
    for field in ("effective_time", "expire_time"):
        if request.HasField(field):
            checks.unsupported(field, "is not available yet: must be unset")
    checks.labels("labels", request.labels)
    checks.finish()


class GrantService(pb_grpc.GrantServiceServicer):
    """Create, read, list."""

    def __init__(self, admin: WalletAdmin, ledger: LedgerStore) -> None:
        self._admin = admin
        self._ledger = ledger

    async def CreateGrant(  # noqa: N802  # gRPC's name
        self,
        request: pb.CreateGrantRequest,
        context: grpc.aio.ServicerContext[pb.CreateGrantRequest, pb.CreateGrantResponse],
    ) -> pb.CreateGrantResponse:
        """Put funds into a wallet."""
        check_create_grant(request)
        row, balance, replayed = await self._admin.create_grant(
            current_tenant(),
            wallet_id=request.wallet_id,
            grant_id=request.grant_id,
            asset=request.asset,
            units=request.units,
            priority=request.priority if request.HasField("priority") else PRIORITY_DEFAULT,
            source=convert.SOURCES_BY_NUMBER[request.source],
            labels=dict(request.labels),
        )
        return pb.CreateGrantResponse(grant=grant_proto(row), balance=convert.balance(balance), replayed=replayed)

    async def GetGrant(  # noqa: N802
        self, request: pb.GetGrantRequest, context: grpc.aio.ServicerContext[pb.GetGrantRequest, pb.GetGrantResponse]
    ) -> pb.GetGrantResponse:
        """Read a grant."""
        checks = Checks()
        checks.id("wallet_id", request.wallet_id)
        checks.id("grant_id", request.grant_id)
        checks.finish()
        row = await self._ledger.get_grant(current_tenant(), request.wallet_id, request.grant_id)
        if row is None:
            raise DrawdownError(
                ErrorReason.GRANT_NOT_FOUND,
                f"grant {request.grant_id} of wallet {request.wallet_id} does not exist",
                wallet_id=request.wallet_id,
                grant_id=request.grant_id,
            )
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
