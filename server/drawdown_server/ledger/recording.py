"""The flush: one transaction that records a batch of events and moves the positions behind them.

    fence (positions move, leases checked) -> lock the wallets -> plan (planning.py) -> write (writing.py) -> commit

The positions move in the same transaction as the rows, so a batch is recorded once or not at all, however often it
is read. The fence comes first: its row locks make a second flusher of the same partition wait, and then fail.

Entries and new holds go in by COPY: it takes arrays in arrays, and tests/bench/flush_rate.py measured 21,000
events/s with it against 15,500 with INSERT ... SELECT FROM unnest. Holds that an event continues (progress, refunds)
are read first and updated: the wallet's lock keeps anybody else from creating them meanwhile. The updates join
unnested arrays of deltas that ``plan`` added up beforehand, so a row is touched once per batch however many events it
has.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
from asyncpg import exceptions as pg
from asyncpg.exceptions import _base as pg_client

from drawdown_server.ledger.database import Connection, Database
from drawdown_server.ledger.planning import plan
from drawdown_server.ledger.posting import Known, changes_of, grants_of, holds_of, wallets_of
from drawdown_server.ledger.queries import QUERIES
from drawdown_server.ledger.reading import lock_wallets, read_changes, read_grants, read_holds
from drawdown_server.ledger.writing import PoisonError, write

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from drawdown_server.ledger.posting import OutboxEvent
    from drawdown_server.ledger.rows import DeadLetterRow


class FencedError(Exception):
    """Another flusher took a partition over, or its epoch changed; nothing was recorded."""


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
                posting = plan(
                    events,
                    Known(
                        wallets=await lock_wallets(connection, wallets_of(events)),
                        grants=await read_grants(connection, grants_of(events)),
                        changes=await read_changes(connection, changes_of(events)),
                        holds=await read_holds(connection, holds_of(events)),
                    ),
                )
                await write(connection, posting)
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
