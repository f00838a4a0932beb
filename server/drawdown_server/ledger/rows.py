"""What the ledger's queries answer: times in milliseconds since the Unix epoch (0 = never), amounts in units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

import msgspec

from drawdown_server.holds.messages import CapUsage, Change
from drawdown_server.holds.model import Cap, CapMode, CapWindow, GrantSource, HoldState, OveragePolicy, WalletState
from drawdown_server.holds.recorded import RecordedDebit, RecordedPart
from drawdown_server.ledger.database import to_ms
from drawdown_server.ledger.events import LineKind

if TYPE_CHECKING:
    import asyncpg

POSITION_START: Final = "0-0"
"""The position of an outbox of which nothing is recorded."""

ChangeKind: TypeAlias = Literal["GRANT", "STATE", "VOID", "EXPIRY", "OVERDRAFT", "CAP", "CAP_REMOVAL"]
"""What an administrator changed about a wallet; ``holds.messages.Change`` has the content of each."""


class AssetRow(msgspec.Struct, frozen=True):
    """A tenant's asset."""

    tenant_id: str
    asset: str
    scale: int
    display_name: str
    default_overage_policy: OveragePolicy
    create_ms: int


class WalletRow(msgspec.Struct, frozen=True):
    """A wallet."""

    tenant_id: str
    wallet_id: str
    partition: int
    state: WalletState
    """The newest wanted state; Valkey follows when the change is applied."""
    display_name: str
    labels: dict[str, str]
    change_number: int
    """The newest change."""
    applied_change_number: int
    """The last change whose event is recorded."""
    sequence: int
    """The last recorded ledger event."""
    create_ms: int
    update_ms: int


class RecordedWallet(msgspec.Struct, frozen=True):
    """How much of a wallet's life Postgres has recorded."""

    tenant_id: str
    wallet_id: str
    sequence: int
    """The last recorded ledger event."""
    applied_change_number: int
    """The last change whose event is recorded."""
    change_number: int
    """The newest change."""


DueKind: TypeAlias = Literal["expiring", "starting"]
"""What time does to a grant."""


class DuePosition(NamedTuple):
    """A place in the walk through all grants by the time at which one thing happens to them."""

    due_ms: int
    tenant_id: str = ""
    wallet_id: str = ""
    grant_id: str = ""


DUE_START: Final = DuePosition(1)
"""Before every grant: 0 is no time."""


class DueGrant(msgspec.Struct, frozen=True):
    """A grant to which time has done something, or was to do."""

    at: DuePosition
    is_due: bool
    """The ledger has not heard of it yet."""


class GrantRow(msgspec.Struct, frozen=True):
    """Funds put in."""

    tenant_id: str
    wallet_id: str
    grant_id: str
    asset: str
    units: int
    remaining_units: int
    priority: int
    source: GrantSource
    effective_ms: int
    """0 = from its creation on."""
    expire_ms: int
    """The newest wanted one; 0 = never."""
    void_ms: int
    """When an operator took it back; 0 = never. Also the newest wanted one."""
    live: bool
    """Its GRANT line is in the ledger. One that was applied and is not live is not effective yet."""
    applied_expire_ms: int
    """``expire_ms`` as of the wallet's applied change."""
    applied_void: bool
    """Whether it was void as of the wallet's applied change."""
    labels: dict[str, str]
    change_number: int
    create_ms: int


class ChangeRow(msgspec.Struct, frozen=True):
    """A numbered change of a wallet."""

    change_number: int
    change: Change
    """As the scripts take it: it is applied exactly as it was recorded."""
    reason: str
    create_ms: int


class BalanceRow(msgspec.Struct, frozen=True):
    """The recorded balance of one asset: settled = granted - debited - expired = units left of live grants - debt."""

    asset: str
    settled_units: int
    granted_units: int
    debited_units: int
    expired_units: int
    debt_units: int
    """Below 0: a credit that belongs to no grant."""
    overdraft_limit_units: int
    """As of the wallet's applied change."""


class WalletSnapshot(msgspec.Struct, frozen=True):
    """Everything that a load into Valkey needs, as of one instant of Postgres."""

    wallet: WalletRow
    applied_state: WalletState
    """The state as of ``wallet.applied_change_number``."""
    balances: list[BalanceRow]
    grants: list[GrantRow]
    """Grants that are in the balance and have units left."""
    scheduled: list[GrantRow]
    """Grants that were applied and are not effective yet."""
    caps: list[Cap]
    """The caps in force as of the applied change, in the order in which they were set."""
    cap_usage: list[CapUsage]
    """Units debited per counter of a cap whose window has not ended."""
    pending: list[ChangeRow]
    """Changes after ``wallet.applied_change_number``, in order, at most ``PENDING_CHANGES_MAX``."""


class EntryRow(msgspec.Struct, frozen=True):
    """One line of the ledger."""

    tenant_id: str
    wallet_id: str
    wallet_sequence: int
    line: int
    kind: LineKind
    asset: str
    units: int
    debit_account: str
    credit_account: str
    grant_id: str
    hold_id: str
    subjects: list[str]
    labels: dict[str, str]
    occurred_ms: int


class SettledHoldAmount(msgspec.Struct, frozen=True, omit_defaults=True):
    """One asset of a committed hold, in units."""

    asset: str
    authorized: int
    debited: int
    uncollected: int
    refunded: int = 0
    debits: list[RecordedDebit] = []
    """What each grant ("" = the debt) paid and was not refunded, in the order of the debits."""
    usage: dict[str, int] = {}
    """Units by counter of a cap in which its debits count."""
    parts: list[RecordedPart] = []
    """The same in order, as refunds give it back from the last; empty when all of it counts in one place."""


class SettledHoldRow(msgspec.Struct, frozen=True):
    """A hold with usage in the ledger."""

    tenant_id: str
    wallet_id: str
    hold_id: str
    final: bool
    """False: only progress was committed."""
    wallet_sequence: int
    """Its last event."""
    amounts: list[SettledHoldAmount]
    subjects: list[str]
    labels: dict[str, str]
    late: bool
    create_ms: int
    settle_ms: int
    """Its last COMMIT."""
    refunds: list[tuple[str, str]]
    """Its refunds: id, and digest of the amounts."""

    @property
    def state(self) -> HoldState:
        """COMMITTED; or EXPIRED when Valkey forgot it without a final Commit: its end is no event."""
        return HoldState.COMMITTED if self.final else HoldState.EXPIRED


class PartitionRow(msgspec.Struct, frozen=True):
    """How far one partition's outbox is recorded."""

    partition: int
    epoch: int
    opened: bool
    """Valkey has had the meta key of this epoch."""
    position: str
    """Stream id of the last recorded event."""
    left_epoch: int
    """Epoch that was left behind and is not salvaged yet; 0 = none."""
    left_position: str


class LeaseRow(msgspec.Struct, frozen=True):
    """A partition that this flusher may record."""

    partition: int
    epoch: int
    position: str
    lease_token: int


class DeadLetterRow(msgspec.Struct, frozen=True):
    """An event that could not be recorded; tenant, wallet and sequence are empty when it cannot be decoded."""

    partition: int
    epoch: int
    stream_id: str
    tenant_id: str
    wallet_id: str
    wallet_sequence: int
    raw: bytes
    error: str


_labels: Final = msgspec.json.Decoder(dict[str, str])
_amounts: Final = msgspec.json.Decoder(list[SettledHoldAmount])
_refunds: Final = msgspec.json.Decoder(list[tuple[str, str]])
_change: Final = msgspec.json.Decoder(Change)


def asset_row(record: asyncpg.Record) -> AssetRow:
    """From the columns of ``assets``."""
    return AssetRow(
        record["tenant_id"],
        record["asset"],
        record["scale"],
        record["display_name"],
        OveragePolicy(record["default_overage_policy"]),
        to_ms(record["create_time"]),
    )


def wallet_row(record: asyncpg.Record) -> WalletRow:
    """From the columns of ``wallets``."""
    return WalletRow(
        tenant_id=record["tenant_id"],
        wallet_id=record["wallet_id"],
        partition=record["partition"],
        state=WalletState(record["state"]),
        display_name=record["display_name"],
        labels=_labels.decode(record["labels"]),
        change_number=record["change_number"],
        applied_change_number=record["applied_change_number"],
        sequence=record["sequence"],
        create_ms=to_ms(record["create_time"]),
        update_ms=to_ms(record["update_time"]),
    )


def grant_row(record: asyncpg.Record) -> GrantRow:
    """From the columns of ``grants``."""
    return GrantRow(
        tenant_id=record["tenant_id"],
        wallet_id=record["wallet_id"],
        grant_id=record["grant_id"],
        asset=record["asset"],
        units=record["units"],
        remaining_units=record["remaining_units"],
        priority=record["priority"],
        source=GrantSource(record["source"]),
        effective_ms=to_ms(record["effective_time"]),
        expire_ms=to_ms(record["expire_time"]),
        void_ms=to_ms(record["void_time"]),
        live=record["live"],
        applied_expire_ms=to_ms(record["applied_expire_time"]),
        applied_void=record["applied_void"],
        labels=_labels.decode(record["labels"]),
        change_number=record["change_number"],
        create_ms=to_ms(record["create_time"]),
    )


def change_row(record: asyncpg.Record) -> ChangeRow:
    """From the columns of ``wallet_changes``."""
    return ChangeRow(
        change_number=record["change_number"],
        change=_change.decode(record["payload"]),
        reason=record["reason"],
        create_ms=to_ms(record["create_time"]),
    )


def decode_change(payload: str) -> Change:
    """Column ``payload`` of ``wallet_changes``."""
    return _change.decode(payload)


def cap_row(record: asyncpg.Record) -> Cap:
    """From the columns of ``caps`` or ``applied_caps``."""
    return Cap(
        subject=record["subject"],
        asset=record["asset"],
        window=CapWindow(record["time_window"]),
        limit=record["limit_units"],
        mode=CapMode(record["mode"]),
    )


def balance_row(record: asyncpg.Record) -> BalanceRow:
    """From the columns of ``balances``."""
    return BalanceRow(
        record["asset"],
        record["settled_units"],
        record["granted_units"],
        record["debited_units"],
        record["expired_units"],
        record["debt_units"],
        record["overdraft_limit_units"],
    )


def entry_row(record: asyncpg.Record) -> EntryRow:
    """From the columns of ``entries``."""
    return EntryRow(
        tenant_id=record["tenant_id"],
        wallet_id=record["wallet_id"],
        wallet_sequence=record["wallet_sequence"],
        line=record["line"],
        kind=LineKind(record["kind"]),
        asset=record["asset"],
        units=record["units"],
        debit_account=record["debit_account"],
        credit_account=record["credit_account"],
        grant_id=record["grant_id"],
        hold_id=record["hold_id"],
        subjects=list(record["subjects"]),
        labels=_labels.decode(record["labels"]),
        occurred_ms=to_ms(record["occurred_time"]),
    )


def settled_hold_row(record: asyncpg.Record) -> SettledHoldRow:
    """From the columns of ``settled_holds``."""
    return SettledHoldRow(
        tenant_id=record["tenant_id"],
        wallet_id=record["wallet_id"],
        hold_id=record["hold_id"],
        final=record["final"],
        wallet_sequence=record["wallet_sequence"],
        amounts=decode_amounts(record["amounts"]),
        subjects=list(record["subjects"]),
        labels=_labels.decode(record["labels"]),
        late=record["late"],
        create_ms=to_ms(record["create_time"]),
        settle_ms=to_ms(record["settle_time"]),
        refunds=decode_refunds(record["refunds"]),
    )


def decode_amounts(text: str) -> list[SettledHoldAmount]:
    """Column ``amounts`` of ``settled_holds``."""
    return _amounts.decode(text)


def decode_refunds(text: str) -> list[tuple[str, str]]:
    """Column ``refunds`` of ``settled_holds``."""
    return _refunds.decode(text)


def dead_letter_row(record: asyncpg.Record) -> DeadLetterRow:
    """From the columns of ``dead_letters``."""
    return DeadLetterRow(
        partition=record["partition"],
        epoch=record["epoch"],
        stream_id=record["stream_id"],
        tenant_id=record["tenant_id"],
        wallet_id=record["wallet_id"],
        wallet_sequence=record["wallet_sequence"],
        raw=record["raw"],
        error=record["error"],
    )
