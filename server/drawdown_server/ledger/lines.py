"""What one line of an event does: two accounts, the balance of its asset, what is left of its grant.

The table is in ``events``; this is the same in code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drawdown_server.ledger.events import Line, LineKind

if TYPE_CHECKING:
    from collections.abc import Mapping

REVENUE: Final = "revenue"
BREAKAGE: Final = "breakage"
ADJUSTMENTS: Final = "adjustments"

FUNDING: Final = frozenset({LineKind.GRANT, LineKind.VOID})
"""Kinds of lines whose other account names the source of the grant."""
WITHOUT_GRANT: Final = frozenset({LineKind.DEBIT, LineKind.REFUND, LineKind.ADJUST})
"""Kinds of lines that may be about the debt instead of a grant."""


class Delta:
    """What to change in a row of ``balances``, in units."""

    __slots__ = ("debited", "debt", "expired", "granted", "overdraft_limit")

    def __init__(self) -> None:
        self.granted = 0
        self.debited = 0
        self.expired = 0
        self.debt = 0
        self.overdraft_limit: int | None = None
        """The new limit; None = as it is."""


def wallet_account(wallet_id: str) -> str:
    """What is left of the wallet's grants."""
    return f"wallet:{wallet_id}"


def debt_account(wallet_id: str) -> str:
    """What the wallet was debited without a grant to pay for it."""
    return f"debt:{wallet_id}"


def accounts(line: Line, wallet_id: str, sources: Mapping[str, str]) -> tuple[str, str]:
    """The debit and the credit account of a line.

    Args:
        line: The line.
        wallet_id: Its wallet.
        sources: Source by grant id, for the grants that ``FUNDING`` lines name.
    """
    kind = line.kind
    own = wallet_account(wallet_id) if line.grant_id else debt_account(wallet_id)
    if kind is LineKind.DEBIT:
        return own, REVENUE
    if kind is LineKind.EXPIRE:
        return own, BREAKAGE
    if kind is LineKind.REFUND:
        return REVENUE, own
    if kind is LineKind.REPAY:
        return own, debt_account(wallet_id)
    if kind is LineKind.ADJUST:
        return ADJUSTMENTS, own
    funding = f"funding:{sources[line.grant_id].lower()}"
    return (funding, own) if kind is LineKind.GRANT else (own, funding)


def add_to_balance(delta: Delta, line: Line) -> int:
    """Add a line to the change of its asset's balance. Returns by how much its grant has less."""
    kind, units = line.kind, line.units
    if kind is LineKind.DEBIT:
        delta.debited += units
        spent = units
    elif kind is LineKind.GRANT:
        delta.granted += units
        spent = 0  # its row was created with all its units
    elif kind is LineKind.EXPIRE:
        delta.expired += units
        spent = units
    elif kind is LineKind.REFUND:
        delta.debited -= units
        spent = -units
    elif kind is LineKind.VOID:
        delta.granted -= units
        spent = units
    elif kind is LineKind.REPAY:
        delta.debt -= units
        spent = units
    else:
        delta.granted += units
        spent = -units
    if not line.grant_id:
        delta.debt += spent
        return 0
    return spent
