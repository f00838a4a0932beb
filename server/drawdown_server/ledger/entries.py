"""Reading the ledger: entries, settled holds, dead letters. Only ``recording`` writes them."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from operator import itemgetter
from typing import TYPE_CHECKING

import msgspec

from drawdown_server.holds.labels import labels_text
from drawdown_server.holds.recorded import RecordedAmount, RecordedHold, RecordedPart
from drawdown_server.ledger.database import ACQUIRE_TIMEOUT_S, Database, translated
from drawdown_server.ledger.events import Event, EventError, EventKind, decode
from drawdown_server.ledger.lines import debt_account, wallet_account
from drawdown_server.ledger.queries import QUERIES
from drawdown_server.ledger.rows import (
    DeadLetterRow,
    EntryRow,
    SettledHoldAmount,
    SettledHoldRow,
    WalletSnapshot,
    dead_letter_row,
    entry_row,
    settled_hold_row,
)
from drawdown_server.ledger.snapshot import read_snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from drawdown_server.ledger.confirming import HoldEvent


def _only_part(amount: SettledHoldAmount) -> RecordedPart:
    """All that is left of an amount that counts in the same counters."""
    counters = sorted(counter for counter, units in amount.usage.items() if units > 0)
    return RecordedPart(counters, amount.debited - amount.refunded)


class EntrySum(msgspec.Struct, frozen=True):
    """What a wallet's entries of one asset and grant ("" = the debt's account) add up to, in units."""

    asset: str
    grant_id: str
    credited_units: int
    debited_units: int


class WalletAudit(msgspec.Struct, frozen=True):
    """Everything Postgres knows about a wallet, as of one instant."""

    snapshot: WalletSnapshot
    sums: list[EntrySum]
    dead_letters: int
    """Events of this wallet that are not in the entries (at most ``limit`` are counted)."""


class EntryStore(Database):
    """The ledger, for reading."""

    async def get_settled_hold(self, tenant_id: str, wallet_id: str, hold_id: str) -> SettledHoldRow | None:
        """A hold with usage in the ledger, however old; None for one that nothing was committed of."""
        async with self._connection() as connection:
            row = await connection.fetchrow(QUERIES["settled_hold_get"], tenant_id, wallet_id, hold_id)
        return None if row is None else settled_hold_row(row)

    async def recorded_hold(self, tenant_id: str, wallet_id: str, hold_id: str) -> RecordedHold | None:
        """The same as ``refund.lua`` takes a hold that Valkey has forgotten."""
        row = await self.get_settled_hold(tenant_id, wallet_id, hold_id)
        return None if row is None else to_recorded(row)

    async def find_events(self, events: Sequence[HoldEvent]) -> list[bool | None]:
        """Whether each event is recorded; None while it may still be."""
        async with self._connection() as connection:
            rows = await connection.fetch(
                QUERIES["hold_events_find"],
                [event.tenant_id for event in events],
                [event.wallet_id for event in events],
                [event.hold_id for event in events],
                [event.wallet_sequence for event in events],
            )
        return [True if row["recorded"] else False if row["passed"] else None for row in rows]

    async def event_epoch(self, tenant_id: str, wallet_id: str, wallet_sequence: int) -> int | None:
        """The epoch in which an event was made; None for one without lines."""
        async with self._connection() as connection:
            epoch: int | None = await connection.fetchval(QUERIES["event_epoch"], tenant_id, wallet_id, wallet_sequence)
        return epoch

    async def find_dead_commit(self, tenant_id: str, wallet_id: str, hold_id: str) -> Event | None:
        """The newest COMMIT of a hold among the events that could not be recorded."""
        async with self._connection() as connection:
            rows = await connection.fetch(QUERIES["dead_letter_list_of_hold"], tenant_id, wallet_id, hold_id.encode())
        commits = []
        for row in rows:
            with suppress(EventError):
                event = decode(row["raw"])
                if event.kind is EventKind.COMMIT and event.hold_id == hold_id:
                    commits.append((event.hold_create_ms, row["epoch"], event.wallet_sequence, event))
        return max(commits, key=itemgetter(0, 1, 2))[-1] if commits else None

    async def list_entries(
        self,
        tenant_id: str,
        wallet_id: str,
        *,
        asset: str = "",
        hold_id: str = "",
        after: tuple[int, int] = (0, 0),
        limit: int,
    ) -> list[EntryRow]:
        """A page of a wallet's entries, oldest first.

        Args:
            tenant_id: The tenant.
            wallet_id: The wallet.
            asset: Only of this asset; "" = all.
            hold_id: Only of the Commit of this hold; "" = all.
            after: (wallet_sequence, line) of the last entry of the page before.
            limit: Most entries to return.
        """
        async with self._connection() as connection:
            rows = await connection.fetch(
                QUERIES["entry_list"], tenant_id, wallet_id, asset, hold_id, after[0], after[1], limit
            )
        return [entry_row(row) for row in rows]

    async def audit_wallet(self, tenant_id: str, wallet_id: str, dead_letters_max: int = 100) -> WalletAudit | None:
        """Balances, grants and recomputed sums of entries in one snapshot; None for an unknown wallet.

        Reads every entry of the wallet: for reconciliation, not for a request.
        """
        with translated():
            async with (
                self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                snapshot = await read_snapshot(connection, tenant_id, wallet_id)
                if snapshot is None:
                    return None
                sums = await connection.fetch(
                    QUERIES["entry_sums"], tenant_id, wallet_id, wallet_account(wallet_id), debt_account(wallet_id)
                )
                dead = await connection.fetch(
                    QUERIES["dead_letter_list_of_wallet"], tenant_id, wallet_id, dead_letters_max
                )
        return WalletAudit(
            snapshot=snapshot,
            sums=_entry_sums(sums),
            dead_letters=len(dead),
        )

    async def list_dead_letters(self, *, after: tuple[int, int, str] = (-1, 0, ""), limit: int) -> list[DeadLetterRow]:
        """A page of events that could not be recorded, after (partition, epoch, stream_id)."""
        async with self._connection() as connection:
            rows = await connection.fetch(QUERIES["dead_letter_list"], *after, limit)
        return [dead_letter_row(row) for row in rows]

    async def count_dead_letters(self) -> int:
        """How many events could not be recorded, ever."""
        async with self._connection() as connection:
            count: int = await connection.fetchval(QUERIES["dead_letters_count"])
        return count


def to_recorded(row: SettledHoldRow) -> RecordedHold:
    """A hold of the ledger as the scripts take one that Valkey does not know."""
    return RecordedHold(
        create_ms=row.create_ms,
        settle_ms=row.settle_ms,
        subjects=row.subjects,
        labels=labels_text(row.labels),
        late=row.late,
        wallet_sequence=row.wallet_sequence,
        amounts=[
            RecordedAmount(
                asset=amount.asset,
                authorized=amount.authorized,
                debited=amount.debited,
                uncollected=amount.uncollected,
                refunded=amount.refunded,
                debits=amount.debits,
                parts=amount.parts or [_only_part(amount)],
            )
            for amount in row.amounts
        ],
        refunds=row.refunds,
    )


def _entry_sums(records: list[asyncpg.Record]) -> list[EntrySum]:
    """By grant for the wallet's account; all of the debt's account, whichever grant repaid it, as grant ""."""
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for record in records:
        own = sums[record["asset"], record["grant_id"]]
        own[0] += record["credited_units"]
        own[1] += record["debited_units"]
        debt = sums[record["asset"], ""]
        debt[0] += record["debt_credited_units"]
        debt[1] += record["debt_debited_units"]
    return [EntrySum(asset, grant_id, credited, debited) for (asset, grant_id), (credited, debited) in sums.items()]
