"""WalletService and BalanceService: wallets and what is in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drawdown.v1 import balance_service_pb2 as balance_pb
from drawdown.v1 import balance_service_pb2_grpc as balance_pb_grpc
from drawdown.v1 import types_pb2
from drawdown.v1 import wallet_service_pb2 as pb
from drawdown.v1 import wallet_service_pb2_grpc as pb_grpc
from drawdown_server.holds.model import WalletState
from drawdown_server.holds.refusals import asset_not_found, wallet_not_found
from drawdown_server.identity.caller import current_tenant
from drawdown_server.rpc import convert
from drawdown_server.rpc.paging import decode_token, encode_token
from drawdown_server.rpc.validation import AMOUNTS_MAX, Checks

if TYPE_CHECKING:
    import grpc

    from drawdown_server.holds.store import HoldStore
    from drawdown_server.ledger.rows import WalletRow
    from drawdown_server.ledger.store import LedgerStore
    from drawdown_server.wallets.admin import WalletAdmin
    from drawdown_server.wallets.assets import AssetRegistry


def wallet_proto(row: WalletRow) -> types_pb2.Wallet:
    """A Wallet."""
    return types_pb2.Wallet(
        wallet_id=row.wallet_id,
        state=convert.WALLET_STATES[row.state],
        display_name=row.display_name,
        labels=row.labels,
        create_time=convert.timestamp(row.create_ms),
        update_time=convert.timestamp(row.update_ms),
    )


class WalletService(pb_grpc.WalletServiceServicer):
    """Create, read, list, freeze, unfreeze, close; the overdraft limit."""

    def __init__(self, admin: WalletAdmin, ledger: LedgerStore) -> None:
        self._admin = admin
        self._ledger = ledger

    async def CreateWallet(  # noqa: N802  # gRPC's name
        self,
        request: pb.CreateWalletRequest,
        context: grpc.aio.ServicerContext[pb.CreateWalletRequest, pb.CreateWalletResponse],
    ) -> pb.CreateWalletResponse:
        """Create a wallet."""
        checks = Checks()
        checks.id("wallet_id", request.wallet_id)
        checks.text("display_name", request.display_name)
        checks.labels("labels", request.labels)
        checks.finish()
        row = await self._admin.create_wallet(
            current_tenant(),
            wallet_id=request.wallet_id,
            display_name=request.display_name,
            labels=dict(request.labels),
        )
        return pb.CreateWalletResponse(wallet=wallet_proto(row))

    async def GetWallet(  # noqa: N802
        self, request: pb.GetWalletRequest, context: grpc.aio.ServicerContext[pb.GetWalletRequest, pb.GetWalletResponse]
    ) -> pb.GetWalletResponse:
        """Read a wallet."""
        checks = Checks()
        checks.id("wallet_id", request.wallet_id)
        checks.finish()
        row = await self._ledger.get_wallet(current_tenant(), request.wallet_id)
        if row is None:
            raise wallet_not_found(request.wallet_id)
        return pb.GetWalletResponse(wallet=wallet_proto(row))

    async def ListWallets(  # noqa: N802
        self,
        request: pb.ListWalletsRequest,
        context: grpc.aio.ServicerContext[pb.ListWalletsRequest, pb.ListWalletsResponse],
    ) -> pb.ListWalletsResponse:
        """List wallets by id."""
        checks = Checks()
        limit = checks.page_size("page_size", request.page_size)
        checks.finish()
        filters = ("wallets",)
        (after,) = decode_token(request.page_token, filters, tuple[str], ("",))
        rows = await self._ledger.list_wallets(current_tenant(), after, limit)
        return pb.ListWalletsResponse(
            wallets=[wallet_proto(row) for row in rows],
            next_page_token=encode_token(filters, (rows[-1].wallet_id,)) if len(rows) == limit else "",
        )

    async def FreezeWallet(  # noqa: N802
        self,
        request: pb.FreezeWalletRequest,
        context: grpc.aio.ServicerContext[pb.FreezeWalletRequest, pb.FreezeWalletResponse],
    ) -> pb.FreezeWalletResponse:
        """Stop new holds."""
        row = await self._set_state(request.wallet_id, WalletState.FROZEN, request.reason)
        return pb.FreezeWalletResponse(wallet=wallet_proto(row))

    async def UnfreezeWallet(  # noqa: N802
        self,
        request: pb.UnfreezeWalletRequest,
        context: grpc.aio.ServicerContext[pb.UnfreezeWalletRequest, pb.UnfreezeWalletResponse],
    ) -> pb.UnfreezeWalletResponse:
        """Allow new holds again."""
        row = await self._set_state(request.wallet_id, WalletState.ACTIVE, request.reason)
        return pb.UnfreezeWalletResponse(wallet=wallet_proto(row))

    async def CloseWallet(  # noqa: N802
        self,
        request: pb.CloseWalletRequest,
        context: grpc.aio.ServicerContext[pb.CloseWalletRequest, pb.CloseWalletResponse],
    ) -> pb.CloseWalletResponse:
        """Close a wallet for ever."""
        checks = Checks()
        checks.id("wallet_id", request.wallet_id)
        checks.text("reason", request.reason, least=1 if request.force else 0)
        checks.finish()
        row = await self._admin.close_wallet(
            current_tenant(), request.wallet_id, force=request.force, reason=request.reason
        )
        return pb.CloseWalletResponse(wallet=wallet_proto(row))

    async def SetOverdraftLimit(  # noqa: N802
        self,
        request: pb.SetOverdraftLimitRequest,
        context: grpc.aio.ServicerContext[pb.SetOverdraftLimitRequest, pb.SetOverdraftLimitResponse],
    ) -> pb.SetOverdraftLimitResponse:
        """Set how far below zero a balance may go."""
        checks = Checks()
        checks.id("wallet_id", request.wallet_id)
        checks.asset("asset", request.asset)
        checks.units("limit_units", request.limit_units, least=0)
        checks.text("reason", request.reason)
        checks.finish()
        balance = await self._admin.set_overdraft_limit(
            current_tenant(), request.wallet_id, request.asset, request.limit_units, request.reason
        )
        return pb.SetOverdraftLimitResponse(balance=convert.balance(balance))

    async def _set_state(self, wallet_id: str, state: WalletState, reason: str) -> WalletRow:
        checks = Checks()
        checks.id("wallet_id", wallet_id)
        checks.text("reason", reason)
        checks.finish()
        return await self._admin.set_state(current_tenant(), wallet_id, state, reason)


class BalanceService(balance_pb_grpc.BalanceServiceServicer):
    """Live balances, read from where the next Authorize reads them."""

    def __init__(self, holds: HoldStore, assets: AssetRegistry) -> None:
        self._holds = holds
        self._assets = assets

    async def GetBalance(  # noqa: N802
        self,
        request: balance_pb.GetBalanceRequest,
        context: grpc.aio.ServicerContext[balance_pb.GetBalanceRequest, balance_pb.GetBalanceResponse],
    ) -> balance_pb.GetBalanceResponse:
        """Read the balances of a wallet."""
        checks = Checks()
        checks.id("wallet_id", request.wallet_id)
        if len(request.assets) > AMOUNTS_MAX:
            checks.fail("assets", f"must have at most {AMOUNTS_MAX} entries")
        for i, asset in enumerate(request.assets):
            checks.asset(f"assets[{i}]", asset)
            if asset in request.assets[:i]:
                checks.fail(f"assets[{i}]", "must not appear twice")
        checks.finish()
        tenant_id = current_tenant()
        reading = await self._holds.read(
            tenant_id, request.wallet_id, assets=list(request.assets), with_grants=request.include_grants
        )
        for asset in request.assets:
            if await self._assets.find(tenant_id, asset) is None:
                raise asset_not_found(asset)
        return balance_pb.GetBalanceResponse(
            balances=convert.balances(reading.balances),
            wallet_sequence=reading.sequence,
            state=convert.WALLET_STATES[reading.state],
            open_holds=reading.open_holds,
        )
