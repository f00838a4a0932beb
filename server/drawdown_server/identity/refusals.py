"""What callers hear who may not call. Nobody learns why a credential is not accepted: only its owner would need to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drawdown_server.errors import DrawdownError, ErrorReason

if TYPE_CHECKING:
    from drawdown_server.identity.scopes import Scope


def unauthenticated() -> DrawdownError:
    """The error for a credential that is missing, malformed, unknown, expired or revoked."""
    return DrawdownError(
        ErrorReason.UNAUTHENTICATED, "a valid credential is needed: metadata authorization with Bearer and an API key"
    )


def scope_missing(scope: Scope) -> DrawdownError:
    """The error for a credential without the scope that a method needs."""
    return DrawdownError(
        ErrorReason.PERMISSION_DENIED, f"this credential does not have the scope {scope}", scope=scope.value
    )


def only_one_wallet(wallet_id: str) -> DrawdownError:
    """The error for a wallet token that is used for anything but its purpose."""
    return DrawdownError(
        ErrorReason.PERMISSION_DENIED,
        f"this token is for GetBalance of wallet {wallet_id} and nothing else",
        wallet_id=wallet_id,
    )


def never_allowed() -> DrawdownError:
    """The error for a method that the table of scopes does not have."""
    return DrawdownError(ErrorReason.PERMISSION_DENIED, "no credential may call this method")
