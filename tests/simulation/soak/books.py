"""What the soak was told: every acknowledged answer, kept until the ledger is held against it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    import drawdown

WalletAsset = tuple[str, str]
"""wallet_id, asset."""


@dataclass(slots=True)
class KnownHold:
    """What is known of one approved hold or charge."""

    wallet_id: str
    token: bytes = b""
    """Of a hold: what a Commit is charged by when Valkey has lost it."""
    debited: dict[str, int] = field(default_factory=dict)
    """In total by asset, as the last answer said."""
    refunded: dict[str, int] = field(default_factory=dict)
    sequences: set[int] = field(default_factory=set)
    """Of the events that answers named."""
    is_settled: bool = False
    """A final answer came; nothing may be held any more."""

    def told(self, hold: drawdown.Hold | None, sequence: int) -> None:
        """Take over what an answer said of the hold."""
        assert hold is not None
        self.debited = {asset: a.debited_units for asset, a in hold.amounts.items() if a.debited_units}
        self.refunded = {asset: a.refunded_units for asset, a in hold.amounts.items() if a.refunded_units}
        if sequence:
            self.sequences.add(sequence)


@dataclass(slots=True)
class KnownGrant:
    """What is known of one grant."""

    wallet_id: str
    asset: str
    units: int
    expire_time: datetime | None = None
    may_be_void: bool = False
    is_certain: bool = True
    """False: its call was refused after an attempt without an answer."""


@dataclass(slots=True)
class Books:
    """Everything that was acknowledged."""

    wallets: list[str] = field(default_factory=list)
    holds: dict[str, KnownHold] = field(default_factory=dict)
    """Approved ones by id."""
    grants: dict[tuple[str, str], KnownGrant] = field(default_factory=dict)
    """By (wallet_id, grant_id)."""
    counts: Counter[str] = field(default_factory=Counter)
    """Of calls answered, denials, retries, faults, ..."""
    wrong: list[str] = field(default_factory=list)
    """Answers that contradict the contract, in words."""
    seen: dict[str, int] = field(default_factory=dict)
    """The highest wallet_sequence that was acknowledged, by wallet."""

    def check_balances(self, who: str, balances: Mapping[str, drawdown.Balance]) -> None:
        """I1, in every answer."""
        for asset, b in balances.items():
            if b.available_units + b.held_units != b.settled_units + b.overdraft_limit_units or b.held_units < 0:
                self.wrong.append(f"{who}: answered with {asset} {b}")

    def check_fresh(self, who: str, wallet_id: str, floor: int, sequence: int) -> None:
        """I7: an answer is no older than what was acknowledged before it was asked for."""
        if sequence < floor:
            self.wrong.append(f"{who}: wallet {wallet_id} answers with event {sequence} after {floor}")
        self.seen[wallet_id] = max(self.seen.get(wallet_id, 0), sequence)
