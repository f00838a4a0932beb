"""A batch of events, what Postgres must know for it, and what is to be written; ``planning`` makes one of the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import msgspec

from drawdown_server.ledger.events import Event, EventError, EventKind, NewerEventError, decode
from drawdown_server.ledger.lines import FUNDING, Delta
from drawdown_server.ledger.rows import DeadLetterRow
from drawdown_server.ledger.settlement import HoldKey, HoldRecord, KnownHold, begins_hold

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from drawdown_server.holds.messages import Change
    from drawdown_server.holds.model import Cap

WalletKey: TypeAlias = tuple[str, str]
"""tenant_id, wallet_id."""
GrantKey: TypeAlias = tuple[str, str, str]
"""tenant_id, wallet_id, grant_id."""
AssetKey: TypeAlias = tuple[str, str, str]
"""tenant_id, wallet_id, asset."""
ChangeKey: TypeAlias = tuple[str, str, int]
"""tenant_id, wallet_id, change_number."""
CapKey: TypeAlias = tuple[str, str, str, str, str]
"""tenant_id, wallet_id, subject, asset, window."""
CounterKey: TypeAlias = tuple[str, str, str]
"""tenant_id, wallet_id, counter."""

ENTRY_COLUMNS: Final = (
    "tenant_id",
    "wallet_id",
    "wallet_sequence",
    "line",
    "kind",
    "asset",
    "units",
    "debit_account",
    "credit_account",
    "grant_id",
    "hold_id",
    "subjects",
    "labels",
    "occurred_time",
    "partition",
    "epoch",
    "stream_id",
)
CONTENT_NEEDED: Final = frozenset(
    {EventKind.VOID, EventKind.EXPIRY, EventKind.OVERDRAFT, EventKind.CAP, EventKind.CAP_REMOVAL}
)
"""Kinds whose event does not say what was changed: the change in Postgres does."""


class OutboxEvent(msgspec.Struct, frozen=True):
    """One entry of an outbox."""

    partition: int
    epoch: int
    stream_id: str
    raw: bytes
    event: Event | None
    """None when it cannot be decoded."""
    error: str = ""
    """Why it is poison; empty = nothing known against it."""
    newer: bool = False
    """Not poison: a newer flusher understands it."""


class LockedWallet(NamedTuple):
    """What Postgres knows of a wallet, locked by this transaction."""

    partition: int
    change_number: int
    applied_change_number: int
    sequence: int


class KnownGrant(NamedTuple):
    """What Postgres knows of a grant."""

    asset: str
    units: int
    source: str
    change_number: int
    live: bool


class Known(NamedTuple):
    """What Postgres knows of what a batch is about."""

    wallets: Mapping[WalletKey, LockedWallet]
    grants: Mapping[GrantKey, KnownGrant] = {}
    """Those of ``grants_of``."""
    changes: Mapping[ChangeKey, Change] = {}
    """Those of ``changes_of``."""
    holds: Mapping[HoldKey, KnownHold] = {}
    """Those of ``holds_of``."""


class Numbers:
    """A wallet's numbers while its events are planned."""

    __slots__ = ("applied_change_number", "sequence")

    def __init__(self, wallet: LockedWallet) -> None:
        self.sequence = wallet.sequence
        self.applied_change_number = wallet.applied_change_number


class GrantLife:
    """What happened to a grant besides its units."""

    __slots__ = ("expire_ms", "live", "void")

    def __init__(self) -> None:
        self.live = False
        """It became part of the balance."""
        self.void = False
        """It was taken back."""
        self.expire_ms: int | None = None
        """Its new expiry; None = as it is."""


@dataclass(slots=True)
class Posting:
    """What to write."""

    entries: list[tuple[object, ...]] = field(default_factory=list)
    """In the order of ENTRY_COLUMNS."""
    holds: dict[HoldKey, HoldRecord] = field(default_factory=dict)
    hold_events: list[tuple[str, str, str, int]] = field(default_factory=list)
    """tenant_id, wallet_id, hold_id, wallet_sequence of events of a hold but its first COMMIT."""
    wallets: dict[WalletKey, Numbers] = field(default_factory=dict)
    balances: dict[AssetKey, Delta] = field(default_factory=dict)
    grants: dict[tuple[str, str, str, str], int] = field(default_factory=dict)
    """tenant_id, wallet_id, grant_id, asset -> what to add to its remaining units."""
    lives: dict[GrantKey, GrantLife] = field(default_factory=dict)
    caps: dict[CapKey, tuple[int, Cap | None]] = field(default_factory=dict)
    """Change number, and the cap as it is now; None = it was removed."""
    cap_usage: dict[CounterKey, int] = field(default_factory=dict)
    """What to add to the units of a counter."""
    dead_letters: list[DeadLetterRow] = field(default_factory=list)

    def delta(self, key: AssetKey) -> Delta:
        """The change of a balance."""
        delta = self.balances.get(key)
        if delta is None:
            delta = self.balances[key] = Delta()
        return delta

    def life(self, key: GrantKey) -> GrantLife:
        """The life of a grant."""
        return self.lives.setdefault(key, GrantLife())


def read_event(partition: int, epoch: int, stream_id: str, raw: bytes) -> OutboxEvent:
    """An entry of the outbox, decoded if possible."""
    try:
        return OutboxEvent(partition, epoch, stream_id, raw, decode(raw))
    except EventError as error:
        return OutboxEvent(partition, epoch, stream_id, raw, None, str(error), newer=isinstance(error, NewerEventError))


def wallets_of(events: Sequence[OutboxEvent]) -> set[WalletKey]:
    """The wallets to lock for ``plan``."""
    return {(e.event.tenant_id, e.event.wallet_id) for e in events if e.event is not None}


def grants_of(events: Sequence[OutboxEvent]) -> set[GrantKey]:
    """The grants whose source ``plan`` must know."""
    return {
        (e.event.tenant_id, e.event.wallet_id, line.grant_id)
        for e in events
        if e.event is not None and not e.error
        for line in e.event.lines
        if line.kind in FUNDING
    }


def changes_of(events: Sequence[OutboxEvent]) -> set[ChangeKey]:
    """The changes whose content ``plan`` must know."""
    return {
        (e.event.tenant_id, e.event.wallet_id, e.event.change_number)
        for e in events
        if e.event is not None and e.event.kind in CONTENT_NEEDED
    }


def holds_of(events: Sequence[OutboxEvent]) -> set[HoldKey]:
    """The holds that ``plan`` must know, because an event continues them."""
    return {
        hold_key(e.event)
        for e in events
        if e.event is not None
        and (e.event.kind is EventKind.REFUND or (e.event.kind is EventKind.COMMIT and not begins_hold(e.event)))
    }


def dead_letter(item: OutboxEvent, error: str) -> DeadLetterRow:
    """The row that keeps an event which cannot be recorded."""
    event = item.event
    return DeadLetterRow(
        partition=item.partition,
        epoch=item.epoch,
        stream_id=item.stream_id,
        tenant_id="" if event is None else event.tenant_id,
        wallet_id="" if event is None else event.wallet_id,
        wallet_sequence=0 if event is None else event.wallet_sequence,
        raw=item.raw,
        error=error.replace("\0", "\\0"),
    )


def hold_key(event: Event) -> HoldKey:
    """The hold that a COMMIT or REFUND is about."""
    return (event.tenant_id, event.wallet_id, event.hold_id, event.hold_create_ms)
