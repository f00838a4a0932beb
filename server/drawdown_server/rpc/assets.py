"""AssetService: the tenant's units of account."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drawdown.v1 import asset_service_pb2 as pb
from drawdown.v1 import asset_service_pb2_grpc as pb_grpc
from drawdown.v1 import types_pb2
from drawdown_server.holds.model import OveragePolicy
from drawdown_server.holds.refusals import asset_not_found
from drawdown_server.identity.caller import current_tenant
from drawdown_server.rpc import convert
from drawdown_server.rpc.paging import decode_token, encode_token
from drawdown_server.rpc.validation import SCALE_MAX, Checks

if TYPE_CHECKING:
    import grpc

    from drawdown_server.ledger.rows import AssetRow
    from drawdown_server.ledger.store import LedgerStore
    from drawdown_server.wallets.admin import WalletAdmin


def asset_proto(row: AssetRow) -> types_pb2.Asset:
    """An Asset."""
    return types_pb2.Asset(
        asset=row.asset,
        scale=row.scale,
        display_name=row.display_name,
        default_overage_policy=convert.OVERAGE_POLICIES[row.default_overage_policy],
        create_time=convert.timestamp(row.create_ms),
    )


class AssetService(pb_grpc.AssetServiceServicer):
    """Create, read, list."""

    def __init__(self, admin: WalletAdmin, ledger: LedgerStore) -> None:
        self._admin = admin
        self._ledger = ledger

    async def CreateAsset(  # noqa: N802  # gRPC's name
        self,
        request: pb.CreateAssetRequest,
        context: grpc.aio.ServicerContext[pb.CreateAssetRequest, pb.CreateAssetResponse],
    ) -> pb.CreateAssetResponse:
        """Create an asset."""
        checks = Checks()
        checks.asset("asset", request.asset)
        if not 0 <= request.scale <= SCALE_MAX:
            checks.fail("scale", f"must be 0 .. {SCALE_MAX}")
        checks.text("display_name", request.display_name)
        checks.enum("default_overage_policy", request.default_overage_policy, types_pb2.OveragePolicy.values())
        checks.finish()
        row = await self._admin.create_asset(
            current_tenant(),
            asset=request.asset,
            scale=request.scale,
            display_name=request.display_name,
            default_overage_policy=convert.OVERAGE_POLICIES_BY_NUMBER.get(
                request.default_overage_policy, OveragePolicy.CHARGE_AVAILABLE
            ),
        )
        return pb.CreateAssetResponse(asset=asset_proto(row))

    async def GetAsset(  # noqa: N802
        self, request: pb.GetAssetRequest, context: grpc.aio.ServicerContext[pb.GetAssetRequest, pb.GetAssetResponse]
    ) -> pb.GetAssetResponse:
        """Read an asset."""
        checks = Checks()
        checks.asset("asset", request.asset)
        checks.finish()
        row = await self._ledger.get_asset(current_tenant(), request.asset)
        if row is None:
            raise asset_not_found(request.asset)
        return pb.GetAssetResponse(asset=asset_proto(row))

    async def ListAssets(  # noqa: N802
        self,
        request: pb.ListAssetsRequest,
        context: grpc.aio.ServicerContext[pb.ListAssetsRequest, pb.ListAssetsResponse],
    ) -> pb.ListAssetsResponse:
        """List assets by code."""
        checks = Checks()
        limit = checks.page_size("page_size", request.page_size)
        checks.finish()
        filters = ("assets",)
        (after,) = decode_token(request.page_token, filters, tuple[str], ("",))
        rows = await self._ledger.list_assets(current_tenant(), after, limit)
        return pb.ListAssetsResponse(
            assets=[asset_proto(row) for row in rows],
            next_page_token=encode_token(filters, (rows[-1].asset,)) if len(rows) == limit else "",
        )
