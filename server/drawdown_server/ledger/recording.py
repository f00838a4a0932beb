"""The flush: one transaction that records a batch of events and moves the positions behind them.

    fence (positions move, leases checked) -> lock the wallets -> plan (posting.py) -> write -> commit

The positions move in the same transaction as the rows, so a batch is recorded once or not at all, however often it
is read. The fence comes first: its row locks make a second flusher of the same partition wait, and then fail.

Entries and settled holds go in by COPY: it takes arrays in arrays, and tests/bench/flush_rate.py measured 21,000
events/s with it against 15,500 with INSERT ... SELECT FROM unnest. The updates join unnested arrays of deltas that
``plan`` added up beforehand, so a row is touched once per batch however many events it has.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
from asyncpg import exceptions as pg
from asyncpg.exceptions import _base as pg_client

from drawdown_server.ledger.database import Connection, Database
from drawdown_server.ledger.partitions import insert_dead_letters
from drawdown_server.ledger.posting import (
    ENTRY_COLUMNS,
    SETTLED_HOLD_COLUMNS,
    KnownGrant,
    LockedWallet,
    funded_grants_of,
    plan,
    wallets_of,
)
from drawdown_server.ledger.queries import QUERIES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from drawdown_server.ledger.posting import AssetKey, Delta, GrantKey, OutboxEvent, Posting, WalletKey
    from drawdown_server.ledger.rows import DeadLetterRow


class FencedError(Exception):
    """Another flusher took a partition over, or its epoch changed; nothing was recorded."""


class PoisonError(Exception):
    """Something in the batch cannot be recorded; nothing was. The message says what Postgres said."""


class Move(msgspec.Struct, frozen=True):
    """The position of one partition before and after a batch."""

    partition: int
    epoch: int
    lease_token: int
    position_from: str
    position_to: str


class RecordingStore(Database):
    """Writes the ledger."""

    async def record(self, moves: Sequence[Move], events: Sequence[OutboxEvent]) -> list[DeadLetterRow]:
        """Record a batch.

        Args:
            moves: One per partition of the batch, from where it was read to its last event.
            events: In the order of each outbox.

        Returns:
            The events that became dead letters instead.

        Raises:
            FencedError: A partition is not ours any more.
            PoisonError: An event breaks a rule of the database; bisect to find it.
            StoreUnavailableError: Postgres did not answer. Whether the batch is recorded is then unknown: read the
                position again.
        """
        with _poison():
            async with self._transaction() as connection:
                await _fence(connection, moves)
                wallets = await _lock_wallets(connection, wallets_of(events))
                grants = await _read_grants(connection, funded_grants_of(events))
                posting = plan(events, wallets, grants)
                await _write(connection, posting)
        return posting.dead_letters


@contextmanager
def _poison() -> Iterator[None]:
    """Names the errors that an event's content can cause."""
    try:
        yield
    except (
        pg.IntegrityConstraintViolationError,  # class 23: an id twice, a balance out of range
        pg.DataError,  # class 22: text that is no JSON, a NUL character
        pg.ProgramLimitExceededError,  # class 54: a name too long for an index
        pg_client.DataError,  # a value that asyncpg cannot encode for its column
    ) as error:
        raise PoisonError(f"{type(error).__name__}: {error}") from error


async def _fence(connection: Connection, moves: Sequence[Move]) -> None:
    moved = await connection.fetch(
        QUERIES["flush_fence"],
        [move.partition for move in moves],
        [move.epoch for move in moves],
        [move.lease_token for move in moves],
        [move.position_from for move in moves],
        [move.position_to for move in moves],
    )
    if len(moved) != len(moves):
        lost = {move.partition for move in moves} - {row["partition"] for row in moved}
        raise FencedError(f"partitions {sorted(lost)} have another owner, epoch or position now")


async def _lock_wallets(connection: Connection, keys: set[WalletKey]) -> dict[WalletKey, LockedWallet]:
    # Only grants and freezes of the same wallet wait for these locks, and each of those locks one wallet only, so
    # the order does not matter.
    rows = await connection.fetch(
        QUERIES["flush_wallets_lock"], [tenant for tenant, _ in keys], [wallet for _, wallet in keys]
    )
    return {
        (row["tenant_id"], row["wallet_id"]): LockedWallet(
            row["partition"], row["change_number"], row["applied_change_number"], row["sequence"]
        )
        for row in rows
    }


async def _read_grants(connection: Connection, keys: set[GrantKey]) -> dict[GrantKey, KnownGrant]:
    if not keys:
        return {}
    ordered = list(keys)
    rows = await connection.fetch(
        QUERIES["flush_grants"], [key[0] for key in ordered], [key[1] for key in ordered], [key[2] for key in ordered]
    )
    return {
        (row["tenant_id"], row["wallet_id"], row["grant_id"]): KnownGrant(
            row["asset"], row["units"], row["source"], row["change_number"]
        )
        for row in rows
    }


async def _write(connection: Connection, posting: Posting) -> None:
    if posting.entries:
        await connection.copy_records_to_table("entries", records=posting.entries, columns=ENTRY_COLUMNS)
    if posting.settled_holds:
        await connection.copy_records_to_table(
            "settled_holds", records=posting.settled_holds, columns=SETTLED_HOLD_COLUMNS
        )
    if posting.balances:
        await _write_balances(connection, posting.balances)
    if posting.grants:
        keys = list(posting.grants)
        status = await connection.execute(
            QUERIES["flush_grants_remaining"],
            [key[0] for key in keys],
            [key[1] for key in keys],
            [key[2] for key in keys],
            [key[3] for key in keys],
            list(posting.grants.values()),
        )
        if _count(status) != len(keys):
            raise PoisonError("a line names a grant that the wallet does not have")
    if posting.wallets:
        wallets = list(posting.wallets)
        await connection.execute(
            QUERIES["flush_wallets"],
            [key[0] for key in wallets],
            [key[1] for key in wallets],
            [numbers.sequence for numbers in posting.wallets.values()],
            [numbers.applied_change_number for numbers in posting.wallets.values()],
        )
    if posting.dead_letters:
        await insert_dead_letters(connection, posting.dead_letters)


async def _write_balances(connection: Connection, balances: dict[AssetKey, Delta]) -> None:
    keys = list(balances)
    if await _add_to_balances(connection, balances, keys) == len(keys):
        return
    # The first event of an asset: what the INSERT really inserts is what the UPDATE did not find. Not one INSERT ...
    # ON CONFLICT DO UPDATE: its range checks would see the delta alone, which may be below 0 where a balance may not.
    created = await connection.fetch(
        QUERIES["flush_balances_create"], [k[0] for k in keys], [k[1] for k in keys], [k[2] for k in keys]
    )
    await _add_to_balances(
        connection, balances, [(row["tenant_id"], row["wallet_id"], row["asset"]) for row in created]
    )


async def _add_to_balances(connection: Connection, balances: dict[AssetKey, Delta], keys: list[AssetKey]) -> int:
    deltas = [balances[key] for key in keys]
    status = await connection.execute(
        QUERIES["flush_balances"],
        [key[0] for key in keys],
        [key[1] for key in keys],
        [key[2] for key in keys],
        [delta.granted for delta in deltas],
        [delta.debited for delta in deltas],
        [delta.expired for delta in deltas],
        [delta.debt for delta in deltas],
    )
    return _count(status)


def _count(status: str) -> int:
    """The number of rows in a command tag such as ``UPDATE 3``."""
    return int(status.rpartition(" ")[2])
