"""The caller of the current RPC.

The gate sets it once per call; services read it. The tenant comes from here and never from a request.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drawdown_server.identity.scopes import Scope


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling."""

    tenant_id: str
    principal: str
    """Which credential, for logs and people: ``key:billing-2``. Never a secret; empty without identity."""
    scopes: frozenset[Scope]
    wallet_id: str = ""
    """The only wallet that it may name; empty: any of the tenant's."""


_current: ContextVar[Caller] = ContextVar("caller")


def set_caller(caller: Caller) -> None:
    """Make this the caller of the current task."""
    _current.set(caller)


def current_caller() -> Caller:
    """The caller of the current call.

    Raises:
        LookupError: Outside a call: a bug.
    """
    return _current.get()


def current_tenant() -> str:
    """The tenant of the current call.

    Raises:
        LookupError: Outside a call: a bug.
    """
    return _current.get().tenant_id
