"""The services of the API: their names, and how each gets onto a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from drawdown.v1 import (
    asset_service_pb2,
    asset_service_pb2_grpc,
    audit_service_pb2,
    audit_service_pb2_grpc,
    authorization_service_pb2,
    authorization_service_pb2_grpc,
    balance_service_pb2,
    balance_service_pb2_grpc,
    cap_service_pb2,
    cap_service_pb2_grpc,
    grant_service_pb2,
    grant_service_pb2_grpc,
    key_service_pb2,
    key_service_pb2_grpc,
    ledger_service_pb2,
    ledger_service_pb2_grpc,
    wallet_service_pb2,
    wallet_service_pb2_grpc,
)

if TYPE_CHECKING:
    from drawdown_server.rpc.methods import Methods


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """One servicer of each."""

    authorization: authorization_service_pb2_grpc.AuthorizationServiceServicer
    assets: asset_service_pb2_grpc.AssetServiceServicer
    wallets: wallet_service_pb2_grpc.WalletServiceServicer
    grants: grant_service_pb2_grpc.GrantServiceServicer
    caps: cap_service_pb2_grpc.CapServiceServicer
    balances: balance_service_pb2_grpc.BalanceServiceServicer
    ledger: ledger_service_pb2_grpc.LedgerServiceServicer
    keys: key_service_pb2_grpc.KeyServiceServicer
    audit: audit_service_pb2_grpc.AuditServiceServicer

    def add_to(self, server: Methods) -> None:
        """Serve them."""
        authorization_service_pb2_grpc.add_AuthorizationServiceServicer_to_server(self.authorization, server)
        asset_service_pb2_grpc.add_AssetServiceServicer_to_server(self.assets, server)
        wallet_service_pb2_grpc.add_WalletServiceServicer_to_server(self.wallets, server)
        grant_service_pb2_grpc.add_GrantServiceServicer_to_server(self.grants, server)
        cap_service_pb2_grpc.add_CapServiceServicer_to_server(self.caps, server)
        balance_service_pb2_grpc.add_BalanceServiceServicer_to_server(self.balances, server)
        ledger_service_pb2_grpc.add_LedgerServiceServicer_to_server(self.ledger, server)
        key_service_pb2_grpc.add_KeyServiceServicer_to_server(self.keys, server)
        audit_service_pb2_grpc.add_AuditServiceServicer_to_server(self.audit, server)


def service_names() -> list[str]:
    """Their full names."""
    return [
        file.DESCRIPTOR.services_by_name[name].full_name
        for file, name in (
            (authorization_service_pb2, "AuthorizationService"),
            (asset_service_pb2, "AssetService"),
            (wallet_service_pb2, "WalletService"),
            (grant_service_pb2, "GrantService"),
            (balance_service_pb2, "BalanceService"),
            (cap_service_pb2, "CapService"),
            (ledger_service_pb2, "LedgerService"),
            (key_service_pb2, "KeyService"),
            (audit_service_pb2, "AuditService"),
        )
    ]
