"""What a credential may do: one scope per method, and a method without a row is denied to everybody.

No scope contains another: a key has the scopes that it was given and no others.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from drawdown_server.identity.refusals import never_allowed, only_one_wallet, scope_missing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from drawdown_server.identity.caller import Caller


class Scope(StrEnum):
    """What a caller may do."""

    AUTHORIZE = "authorize"
    """The data plane: hold, commit, release, charge, and give back what was charged. A gateway's."""
    READ = "read"
    """Look at everything of the tenant, but its credentials and its audit log."""
    WALLETS = "wallets"
    """Open, freeze and close wallets, end their holds, limit what they spend. Makes no money."""
    FUNDS = "funds"
    """Everything that lets a wallet spend more, or takes away what it has: grants and overdraft limits."""
    ADMIN = "admin"
    """The tenant's assets, keys and audit log."""


ALL_SCOPES: Final = frozenset(Scope)

SCOPES: Final[dict[str, Scope]] = {
    "drawdown.v1.AssetService/CreateAsset": Scope.ADMIN,
    "drawdown.v1.AssetService/GetAsset": Scope.READ,
    "drawdown.v1.AssetService/ListAssets": Scope.READ,
    "drawdown.v1.AuditService/ListAuditRecords": Scope.ADMIN,
    "drawdown.v1.AuthorizationService/Authorize": Scope.AUTHORIZE,
    "drawdown.v1.AuthorizationService/Commit": Scope.AUTHORIZE,
    "drawdown.v1.AuthorizationService/Release": Scope.AUTHORIZE,
    "drawdown.v1.AuthorizationService/Extend": Scope.AUTHORIZE,
    "drawdown.v1.AuthorizationService/Charge": Scope.AUTHORIZE,
    "drawdown.v1.AuthorizationService/Refund": Scope.AUTHORIZE,
    "drawdown.v1.AuthorizationService/Batch": Scope.AUTHORIZE,
    "drawdown.v1.AuthorizationService/Session": Scope.AUTHORIZE,
    "drawdown.v1.AuthorizationService/ForceRelease": Scope.WALLETS,
    "drawdown.v1.AuthorizationService/GetHold": Scope.READ,
    "drawdown.v1.AuthorizationService/ListHolds": Scope.READ,
    "drawdown.v1.BalanceService/GetBalance": Scope.READ,
    "drawdown.v1.CapService/SetCap": Scope.WALLETS,
    "drawdown.v1.CapService/RemoveCap": Scope.WALLETS,
    "drawdown.v1.CapService/ListCaps": Scope.READ,
    "drawdown.v1.GrantService/CreateGrant": Scope.FUNDS,
    "drawdown.v1.GrantService/GetGrant": Scope.READ,
    "drawdown.v1.GrantService/ListGrants": Scope.READ,
    "drawdown.v1.GrantService/VoidGrant": Scope.FUNDS,
    "drawdown.v1.GrantService/SetGrantExpiry": Scope.FUNDS,
    "drawdown.v1.KeyService/CreateApiKey": Scope.ADMIN,
    "drawdown.v1.KeyService/ListApiKeys": Scope.ADMIN,
    "drawdown.v1.KeyService/RotateApiKey": Scope.ADMIN,
    "drawdown.v1.KeyService/RevokeApiKey": Scope.ADMIN,
    "drawdown.v1.KeyService/CreateWalletToken": Scope.READ,  # hands on a part of what it may do itself; stores nothing
    "drawdown.v1.LedgerService/ListEntries": Scope.READ,
    "drawdown.v1.WalletService/CreateWallet": Scope.WALLETS,
    "drawdown.v1.WalletService/GetWallet": Scope.READ,
    "drawdown.v1.WalletService/ListWallets": Scope.READ,
    "drawdown.v1.WalletService/FreezeWallet": Scope.WALLETS,
    "drawdown.v1.WalletService/UnfreezeWallet": Scope.WALLETS,
    "drawdown.v1.WalletService/CloseWallet": Scope.WALLETS,
    "drawdown.v1.WalletService/SetOverdraftLimit": Scope.FUNDS,
}
"""The scope that each method needs, by its full name without the leading slash."""

WALLET_TOKEN_METHODS: Final = frozenset({"drawdown.v1.BalanceService/GetBalance"})
"""All that the caller of a single wallet may call."""


def check_method(caller: Caller, method: str) -> None:
    """Refuse a method that the caller may not call.

    Args:
        caller: Who calls.
        method: Full name without the leading slash.

    Raises:
        DrawdownError: PERMISSION_DENIED, with the scope that is missing.
    """
    scope = SCOPES.get(method)
    if scope is None:
        raise never_allowed()
    # Not `in`: an enum's hash costs more than five comparisons, and this is asked about every call.
    for had in caller.scopes:
        if had is scope:
            break
    else:
        raise scope_missing(scope)
    if caller.wallet_id and method not in WALLET_TOKEN_METHODS:
        raise only_one_wallet(caller.wallet_id)


def check_wallet(caller: Caller, wallet_id: str) -> None:
    """Refuse another wallet than the caller's, whether or not there is such a wallet.

    Raises:
        DrawdownError: PERMISSION_DENIED.
    """
    if caller.wallet_id and wallet_id != caller.wallet_id:
        raise only_one_wallet(caller.wallet_id)


def check_grantable(caller: Caller, scopes: Iterable[Scope]) -> None:
    """Refuse to hand on what the caller does not have itself.

    Raises:
        DrawdownError: PERMISSION_DENIED, with the first scope that is missing.
    """
    for scope in scopes:
        if scope not in caller.scopes:
            raise scope_missing(scope)
