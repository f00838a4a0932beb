"""What the ledger's queries answer.

Times are milliseconds since the Unix epoch, 0 = never (or not yet); amounts are units (integers in the asset's
smallest unit).
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

from drawdown_server.holds.model import GrantSource, HoldState, OveragePolicy, WalletState
from drawdown_server.ledger.database import to_ms
from drawdown_server.ledger.events import LineKind

if TYPE_CHECKING:
    import asyncpg

POSITION_START: Final = "0-0"
"""The position of an outbox of which nothing is recorded."""


class ChangeKind(StrEnum):
    """What an administrator changed about a wallet."""

    GRANT = "GRANT"
    STATE = "STATE"


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
    labels: dict[str, str]
    change_number: int
    create_ms: int


class ChangeRow(msgspec.Struct, frozen=True):
    """A numbered change of a wallet; ``grant`` with kind GRANT, ``state`` with kind STATE."""

    change_number: int
    kind: ChangeKind
    state: WalletState | None
    reason: str
    grant: GrantRow | None
    create_ms: int


class BalanceRow(msgspec.Struct, frozen=True):
    """The recorded balance of one asset: settled = granted - debited - expired."""

    asset: str
    settled_units: int
    granted_units: int
    debited_units: int
    expired_units: int
    debt_units: int


class WalletSnapshot(msgspec.Struct, frozen=True):
    """Everything that a load into Valkey needs, as of one instant of Postgres."""

    wallet: WalletRow
    applied_state: WalletState
    """The state as of ``wallet.applied_change_number``."""
    balances: list[BalanceRow]
    grants: list[GrantRow]
    """Grants that are in the balance and have units left."""
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


class SettledHoldAmount(msgspec.Struct, frozen=True):
    """One asset of a settled hold, in units."""

    asset: str
    authorized: int
    debited: int
    uncollected: int


class SettledHoldRow(msgspec.Struct, frozen=True):
    """A committed hold."""

    tenant_id: str
    wallet_id: str
    hold_id: str
    state: HoldState
    wallet_sequence: int
    amounts: list[SettledHoldAmount]
    subjects: list[str]
    labels: dict[str, str]
    late: bool
    create_ms: int
    settle_ms: int


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
        labels=_labels.decode(record["labels"]),
        change_number=record["change_number"],
        create_ms=to_ms(record["create_time"]),
    )


def change_row(record: asyncpg.Record, grants: dict[int, GrantRow]) -> ChangeRow:
    """From the columns of ``wallet_changes`` and the wallet's grants by change number."""
    kind = ChangeKind(record["kind"])
    return ChangeRow(
        change_number=record["change_number"],
        kind=kind,
        state=WalletState(record["state"]) if kind is ChangeKind.STATE else None,
        reason=record["reason"],
        grant=grants[record["change_number"]] if kind is ChangeKind.GRANT else None,
        create_ms=to_ms(record["create_time"]),
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
        state=HoldState(record["state"]),
        wallet_sequence=record["wallet_sequence"],
        amounts=_amounts.decode(record["amounts"]),
        subjects=list(record["subjects"]),
        labels=_labels.decode(record["labels"]),
        late=record["late"],
        create_ms=to_ms(record["create_time"]),
        settle_ms=to_ms(record["settle_time"]),
    )


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
