"""The call of an administrator that is under way, for the record that its change leaves (``ledger/audit.py``).

The gate sets it, the transaction that makes the change reads it. Outside of one (the data plane, what servers do
by themselves) there is none, and nothing is recorded.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

State: TypeAlias = "Mapping[str, object]"
"""What something is, as a record shows it: fields by the names of the API. Never a secret."""


@dataclass(slots=True)
class AdminCall:
    """Who asked for what."""

    tenant_id: str
    principal: str
    method: str
    """Without its package: ``WalletService/FreezeWallet``."""
    wallet_id: str
    """Empty: it is about none."""
    target: str
    request: State
    trace_id: str
    """Empty: it has none."""
    before: State | None = None
    """What was there before the call began, where the last of its transactions cannot see it any more."""


_current: ContextVar[AdminCall | None] = ContextVar("admin_call", default=None)


def set_admin_call(call: AdminCall) -> None:
    """Make this the call of the current task."""
    _current.set(call)


def current_admin_call() -> AdminCall | None:
    """The call of the current task; None outside of one."""
    return _current.get()
