"""CapService: hard limits on spend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drawdown.v1 import cap_service_pb2 as pb
from drawdown.v1 import cap_service_pb2_grpc as pb_grpc
from drawdown.v1 import types_pb2
from drawdown_server.holds.messages import ReadCapsRequest
from drawdown_server.holds.model import Cap, CapWindow
from drawdown_server.identity.caller import current_tenant
from drawdown_server.rpc import convert
from drawdown_server.rpc.validation import SUBJECTS_MAX, Checks

if TYPE_CHECKING:
    import grpc

    from drawdown_server.holds.store import HoldStore
    from drawdown_server.wallets.admin import WalletAdmin

_WINDOWS = list(CapWindow)
"""In their order, short ones first."""


class CapService(pb_grpc.CapServiceServicer):
    """Set, remove, list."""

    def __init__(self, admin: WalletAdmin, holds: HoldStore) -> None:
        self._admin = admin
        self._holds = holds

    async def SetCap(  # noqa: N802  # gRPC's name
        self, request: pb.SetCapRequest, context: grpc.aio.ServicerContext[pb.SetCapRequest, pb.SetCapResponse]
    ) -> pb.SetCapResponse:
        """Set a cap."""
        checks = _check_cap_name(request)
        checks.units("limit_units", request.limit_units, least=0)
        checks.enum("mode", request.mode, types_pb2.CapMode.values())
        checks.finish()
        cap = Cap(
            subject=request.subject,
            asset=request.asset,
            window=convert.CAP_WINDOWS_BY_NUMBER[request.window],
            limit=request.limit_units,
            mode=convert.CAP_MODES_BY_NUMBER[request.mode],
        )
        await self._admin.set_cap(current_tenant(), request.wallet_id, cap)
        return pb.SetCapResponse(cap=convert.cap(request.wallet_id, cap))

    async def RemoveCap(  # noqa: N802
        self, request: pb.RemoveCapRequest, context: grpc.aio.ServicerContext[pb.RemoveCapRequest, pb.RemoveCapResponse]
    ) -> pb.RemoveCapResponse:
        """Remove a cap."""
        _check_cap_name(request).finish()
        window = convert.CAP_WINDOWS_BY_NUMBER[request.window]
        await self._admin.remove_cap(
            current_tenant(), request.wallet_id, subject=request.subject, asset=request.asset, window=window
        )
        return pb.RemoveCapResponse()

    async def ListCaps(  # noqa: N802
        self, request: pb.ListCapsRequest, context: grpc.aio.ServicerContext[pb.ListCapsRequest, pb.ListCapsResponse]
    ) -> pb.ListCapsResponse:
        """The caps of a wallet and how they stand, read from where the next Authorize reads them."""
        checks = Checks()
        checks.id("wallet_id", request.wallet_id)
        checks.unique_ids("subjects", request.subjects, most=SUBJECTS_MAX)
        checks.finish()
        reply = await self._holds.read_caps(
            ReadCapsRequest(tenant_id=current_tenant(), wallet_id=request.wallet_id, subjects=list(request.subjects))
        )
        caps = sorted(reply.caps, key=lambda cap: (cap.subject, cap.asset, _WINDOWS.index(cap.window)))
        usage = sorted(reply.usage, key=lambda cap: (cap.subject, cap.asset, _WINDOWS.index(cap.window)))
        return pb.ListCapsResponse(
            caps=[convert.cap(request.wallet_id, cap) for cap in caps],
            usage=[convert.cap_status(cap) for cap in usage],
        )


def _check_cap_name(request: pb.SetCapRequest | pb.RemoveCapRequest) -> Checks:
    """Start the checks of a request that names a cap."""
    checks = Checks()
    checks.id("wallet_id", request.wallet_id)
    checks.cap_subject("subject", request.subject)
    checks.asset("asset", request.asset)
    checks.enum("window", request.window, types_pb2.CapWindow.values(), required=True)
    return checks
