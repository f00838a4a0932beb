"""What a batch of events does to the ledger: pure, no input or output.

``plan`` turns events plus what Postgres knows of their wallets into rows to insert and deltas to add. An event that
cannot be right (``events`` cannot decode it, no such wallet, a gap or a repeat in the wallet's sequence, ...) becomes
a dead letter. It then still uses up its numbers: the wallet's sequence and change number move on to the event's,
so that one poison event does not make all later events of the wallet look like a gap.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import msgspec

from drawdown_server.ledger.database import from_ms
from drawdown_server.ledger.events import Event, EventError, EventKind, Line, LineKind, decode
from drawdown_server.ledger.rows import DeadLetterRow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WalletKey: TypeAlias = tuple[str, str]
"""tenant_id, wallet_id."""
GrantKey: TypeAlias = tuple[str, str, str]
"""tenant_id, wallet_id, grant_id."""
AssetKey: TypeAlias = tuple[str, str, str]
"""tenant_id, wallet_id, asset."""

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
SETTLED_HOLD_COLUMNS: Final = (
    "tenant_id",
    "wallet_id",
    "hold_id",
    "state",
    "wallet_sequence",
    "amounts",
    "subjects",
    "labels",
    "late",
    "create_time",
    "settle_time",
)

REVENUE: Final = "revenue"
BREAKAGE: Final = "breakage"
ADJUSTMENTS: Final = "adjustments"


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


class Numbers:
    """A wallet's numbers while its events are planned."""

    __slots__ = ("applied_change_number", "sequence")

    def __init__(self, wallet: LockedWallet) -> None:
        self.sequence = wallet.sequence
        self.applied_change_number = wallet.applied_change_number


class Delta:
    """What to add to a row of ``balances``, in units."""

    __slots__ = ("debited", "debt", "expired", "granted")

    def __init__(self) -> None:
        self.granted = 0
        self.debited = 0
        self.expired = 0
        self.debt = 0


@dataclass(slots=True)
class Posting:
    """What to write."""

    entries: list[tuple[object, ...]] = field(default_factory=list)
    """In the order of ENTRY_COLUMNS."""
    settled_holds: list[tuple[object, ...]] = field(default_factory=list)
    """In the order of SETTLED_HOLD_COLUMNS."""
    wallets: dict[WalletKey, Numbers] = field(default_factory=dict)
    balances: dict[AssetKey, Delta] = field(default_factory=dict)
    grants: dict[tuple[str, str, str, str], int] = field(default_factory=dict)
    """tenant_id, wallet_id, grant_id, asset -> what to add to its remaining units."""
    dead_letters: list[DeadLetterRow] = field(default_factory=list)


def read_event(partition: int, epoch: int, stream_id: str, raw: bytes) -> OutboxEvent:
    """An entry of the outbox, decoded if possible."""
    try:
        return OutboxEvent(partition, epoch, stream_id, raw, decode(raw))
    except EventError as error:
        return OutboxEvent(partition, epoch, stream_id, raw, None, str(error))


def wallets_of(events: Sequence[OutboxEvent]) -> set[WalletKey]:
    """The wallets to lock for ``plan``."""
    return {(e.event.tenant_id, e.event.wallet_id) for e in events if e.event is not None}


def funded_grants_of(events: Sequence[OutboxEvent]) -> set[GrantKey]:
    """The grants whose source ``plan`` must know."""
    return {
        (e.event.tenant_id, e.event.wallet_id, line.grant_id)
        for e in events
        if e.event is not None and not e.error
        for line in e.event.lines
        if line.kind in _FUNDING
    }


def plan(
    events: Sequence[OutboxEvent],
    wallets: Mapping[WalletKey, LockedWallet],
    grants: Mapping[GrantKey, KnownGrant],
) -> Posting:
    """What these events, in this order, do to the ledger."""
    posting = Posting()
    for item in events:
        event = item.event
        if event is None:
            posting.dead_letters.append(dead_letter(item, item.error))
            continue
        key = (event.tenant_id, event.wallet_id)
        wallet = wallets.get(key)
        if wallet is None or wallet.partition != item.partition:
            where = "does not exist" if wallet is None else f"lives in partition {wallet.partition}"
            posting.dead_letters.append(dead_letter(item, item.error or f"wallet {event.wallet_id} {where}"))
            continue
        numbers = posting.wallets.get(key)
        if numbers is None:
            numbers = posting.wallets[key] = Numbers(wallet)
        error = item.error or _why_misplaced(event, wallet, numbers) or _why_unfunded(event, grants)
        numbers.sequence = max(numbers.sequence, event.wallet_sequence)
        if event.change_number > numbers.applied_change_number:
            numbers.applied_change_number = min(event.change_number, wallet.change_number)
        if error:
            posting.dead_letters.append(dead_letter(item, error))
        else:
            _post(posting, item, event, grants)
    return posting


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


def _why_misplaced(event: Event, wallet: LockedWallet, numbers: Numbers) -> str:
    """Why the event does not follow what is recorded of its wallet; empty when it does."""
    if event.wallet_sequence != numbers.sequence + 1:
        what = "gap" if event.wallet_sequence > numbers.sequence else "repeat"
        return f"{what} in the wallet's sequence: event {event.wallet_sequence} after {numbers.sequence}"
    if event.change_number:
        if event.change_number != numbers.applied_change_number + 1:
            return f"change {event.change_number} applied after change {numbers.applied_change_number}"
        if event.change_number > wallet.change_number:
            return f"change {event.change_number} is unknown, the newest is {wallet.change_number}"
    elif event.kind is EventKind.GRANT or event.kind is EventKind.STATE:
        return f"a {event.kind} event without a change number"
    if event.kind is EventKind.COMMIT and not (event.hold_id and event.hold_create_ms):
        return "a COMMIT event without a hold"
    return ""


def _why_unfunded(event: Event, grants: Mapping[GrantKey, KnownGrant]) -> str:
    """Why a line does not fit the grant that it names; empty when all do."""
    for line in event.lines:
        if line.kind in _FUNDING:
            grant = grants.get((event.tenant_id, event.wallet_id, line.grant_id))
            if grant is None or grant.asset != line.asset:
                return f"no grant {line.grant_id} of {line.asset}"
            if line.kind is LineKind.GRANT and (grant.units, grant.change_number) != (line.units, event.change_number):
                return (
                    f"grant {line.grant_id} is {grant.units} units by change {grant.change_number}, "
                    f"the event says {line.units} by change {event.change_number}"
                )
    return ""


def _post(posting: Posting, item: OutboxEvent, event: Event, grants: Mapping[GrantKey, KnownGrant]) -> None:
    """Add one good event."""
    tenant_id, wallet_id = event.tenant_id, event.wallet_id
    labels = event.labels or "{}"
    occurred = from_ms(event.time_ms)
    account = f"wallet:{wallet_id}"
    for number, line in enumerate(event.lines, start=1):
        if line.kind is LineKind.DEBIT:  # nearly every line there is
            debit_account, credit_account = account, REVENUE
        else:
            debit_account, credit_account = _accounts(line, tenant_id, wallet_id, grants)
        posting.entries.append(
            (
                tenant_id,
                wallet_id,
                event.wallet_sequence,
                number,
                line.kind,
                line.asset,
                line.units,
                debit_account,
                credit_account,
                line.grant_id,
                event.hold_id,
                event.subjects,
                labels,
                occurred,
                item.partition,
                item.epoch,
                item.stream_id,
            )
        )
        _add_line(posting, tenant_id, wallet_id, line)
    if event.kind is EventKind.COMMIT:
        posting.settled_holds.append(
            (
                tenant_id,
                wallet_id,
                event.hold_id,
                "COMMITTED",
                event.wallet_sequence,
                _amounts_json(event),
                event.subjects,
                labels,
                event.late,
                from_ms(event.hold_create_ms),
                occurred,
            )
        )


def _add_line(posting: Posting, tenant_id: str, wallet_id: str, line: Line) -> None:
    """Add one line to the deltas; the table in ``events`` says what each kind does."""
    key = (tenant_id, wallet_id, line.asset)
    delta = posting.balances.get(key)
    if delta is None:
        delta = posting.balances[key] = Delta()
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
    else:
        delta.granted += units
        spent = -units
    if not line.grant_id:
        delta.debt += spent
    elif spent:
        grant = (tenant_id, wallet_id, line.grant_id, line.asset)
        posting.grants[grant] = posting.grants.get(grant, 0) - spent


def _accounts(line: Line, tenant_id: str, wallet_id: str, grants: Mapping[GrantKey, KnownGrant]) -> tuple[str, str]:
    """The debit and the credit account of a line."""
    wallet = f"wallet:{wallet_id}"
    if line.kind is LineKind.EXPIRE:
        return wallet, BREAKAGE
    if line.kind is LineKind.REFUND:
        return REVENUE, wallet
    if line.kind is LineKind.ADJUST:
        return ADJUSTMENTS, wallet
    funding = f"funding:{grants[tenant_id, wallet_id, line.grant_id].source.lower()}"
    return (funding, wallet) if line.kind is LineKind.GRANT else (wallet, funding)


def _amounts_json(event: Event) -> str:
    return _json.encode(
        [
            {"asset": a.asset, "authorized": a.authorized, "debited": a.debited, "uncollected": a.uncollected}
            for a in event.amounts
        ]
    ).decode()


_FUNDING: Final = frozenset({LineKind.GRANT, LineKind.VOID})
"""Kinds of lines whose other account names the source of the grant."""

_json: Final = msgspec.json.Encoder()
