"""Partitions in Postgres: how far each outbox is recorded, who may record it, which epoch is in force.

A lease says who should record; the token says who may. Only Postgres' clock counts. A flusher that was stopped for
longer than its lease finds its token outdated inside its next transaction and records nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import structlog
from asyncpg import exceptions as pg

from drawdown_server.errors import ConfigurationError
from drawdown_server.ledger.database import Connection, Database, affected
from drawdown_server.ledger.queries import QUERIES
from drawdown_server.ledger.rows import LeaseRow, PartitionRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from drawdown_server.ledger.rows import DeadLetterRow

log = structlog.get_logger(__name__)

_NOT_SHOWN: Final = (
    pg.UndefinedTableError,
    pg.UndefinedColumnError,
    pg.UndefinedFunctionError,
    pg.FeatureNotSupportedError,
    pg.InsufficientPrivilegeError,
)
"""What databases that speak Postgres' language, and such as restrict it, say of its views of locks and sessions."""


class LeftEpoch(NamedTuple):
    """An epoch that was left behind, whose keys are still in Valkey."""

    partition: int
    epoch: int
    position: str
    """Stream id of its last recorded event."""


class PartitionCountError(ConfigurationError):
    """This server is configured with another number of partitions than the installation has."""


def _check_count(installed: int, configured: int) -> None:
    if installed != configured:
        raise PartitionCountError(
            f"this installation has {installed} partitions, this server is configured with {configured}; "
            f"set DRAWDOWN_PARTITIONS={installed} (the number is fixed for the life of an installation)"
        )


class PartitionStore(Database):
    """Partitions."""

    async def ensure_partitions(self, count: int) -> None:
        """Create the partitions of a new installation, or check that an old one has this many.

        Raises:
            PartitionCountError: It has another number; a wallet would be looked for where it is not.
        """
        async with self._transaction() as connection:
            await connection.execute(QUERIES["installation_create"], count)
            _check_count(await connection.fetchval(QUERIES["installation_get"]), count)
            await connection.execute(QUERIES["partitions_create"], count)

    async def check_partition_count(self, count: int) -> None:
        """Check that this number of partitions fits the installation, if there is one yet; changes nothing.

        Raises:
            PartitionCountError: It has another number.
        """
        async with self._connection() as connection:
            installed = await connection.fetchval(QUERIES["installation_get"])
        if installed is not None:
            _check_count(installed, count)

    async def read_partitions(self) -> list[PartitionRow]:
        """Every partition, by number."""
        async with self._connection() as connection:
            rows = await connection.fetch(QUERIES["partitions_list"])
        return [_partition_row(row) for row in rows]

    async def read_partition(self, partition: int) -> PartitionRow | None:
        """One partition."""
        async with self._connection() as connection:
            row = await connection.fetchrow(QUERIES["partition_get"], partition)
        return None if row is None else _partition_row(row)

    async def bump_epoch(self, partition: int, from_epoch: int) -> int | None:
        """Begin a new epoch with an empty outbox: its state in Valkey is lost and loads again from here.

        Returns:
            The new epoch; None when the epoch is not ``from_epoch`` any more (another server was first), or when an
            epoch that was left behind before is not salvaged yet.
        """
        async with self._connection() as connection:
            epoch: int | None = await connection.fetchval(QUERIES["partition_bump_epoch"], partition, from_epoch)
        return epoch

    async def mark_salvaged(self, partition: int, left_epoch: int) -> None:
        """Remember that nothing unrecorded is left in the outbox of an epoch that was left behind."""
        async with self._connection() as connection:
            await connection.execute(QUERIES["partition_salvaged"], partition, left_epoch)

    async def list_left_epochs(self) -> list[LeftEpoch]:
        """Epochs that were left behind and salvaged, and whose keys are still to be deleted."""
        async with self._connection() as connection:
            rows = await connection.fetch(QUERIES["left_epochs_list"])
        return [LeftEpoch(row["partition"], row["epoch"], row["position"]) for row in rows]

    async def mark_swept(self, left: Sequence[LeftEpoch]) -> None:
        """Remember that no keys of these epochs are left in Valkey."""
        async with self._connection() as connection:
            await connection.execute(
                QUERIES["left_epochs_swept"], [row.partition for row in left], [row.epoch for row in left]
            )

    async def mark_opened(self, epochs: Sequence[tuple[int, int]]) -> None:
        """Remember, for each (partition, epoch), that Valkey has its meta key."""
        async with self._connection() as connection:
            await connection.execute(
                QUERIES["partitions_mark_opened"],
                [partition for partition, _ in epochs],
                [epoch for _, epoch in epochs],
            )

    async def lease_partitions(
        self, owner: str, ttl_ms: int, *, run_id: str = "", except_for: Sequence[int] = ()
    ) -> list[LeaseRow]:
        """Renew this owner's leases and take every free one; none while others serve from another Valkey.

        Args:
            owner: Unique per flusher and process start.
            ttl_ms: How long it keeps them without a word.
            run_id: Of the Valkey whose outboxes it reads; "" = not known.
            except_for: Partitions that it neither renews nor takes.

        Returns:
            All partitions that it owns now, with the position to go on from.
        """
        async with self._connection() as connection:
            rows = await connection.fetch(QUERIES["lease"], owner, ttl_ms / 1000, run_id, except_for)
        return [LeaseRow(row["partition"], row["epoch"], row["position"], row["lease_token"]) for row in rows]

    async def end_stuck_flushes(self) -> int:
        """End transactions of flushers that hold partitions for longer than Postgres lets any statement run.

        Returns:
            How many; what they wrote is undone. 0 also where the database does not show, or let us end, the
            transactions of others: then they stay until their connections break.
        """
        async with self._connection() as connection:
            try:
                return len(await connection.fetch(QUERIES["flush_end_stuck"]))
            except _NOT_SHOWN as error:
                log.warning("postgres.stuck_flushes_not_ended", error=str(error))
                return 0

    async def list_leases(self) -> dict[int, tuple[str, float]]:
        """Who may record a partition, and for how many seconds from now; only partitions that somebody may."""
        async with self._connection() as connection:
            rows = await connection.fetch(QUERIES["leases_list"])
        return {row["partition"]: (row["lease_owner"], row["lease_s"]) for row in rows}

    async def fence_flushers(self) -> None:
        """Outdate the token of every lease: what flushers have read so far they must read again."""
        async with self._connection() as connection:
            await connection.execute(QUERIES["flushers_fence"])

    async def release_leases(self, owner: str, partitions: Sequence[int] | None = None) -> None:
        """Give this owner's leases back, so that another flusher goes on at once; all, or those of some partitions."""
        async with self._connection() as connection:
            await connection.execute(QUERIES["lease_release"], owner, partitions)

    async def create_dead_letters(self, letters: Sequence[DeadLetterRow]) -> int:
        """Keep events that cannot be recorded; those that are there already stay as they are.

        Returns:
            How many were not there yet.
        """
        async with self._connection() as connection:
            return await insert_dead_letters(connection, letters)


async def insert_dead_letters(connection: Connection, letters: Sequence[DeadLetterRow]) -> int:
    """``create_dead_letters`` inside the caller's transaction."""
    status = await connection.execute(
        QUERIES["dead_letters_create"],
        [letter.partition for letter in letters],
        [letter.epoch for letter in letters],
        [letter.stream_id for letter in letters],
        [letter.tenant_id for letter in letters],
        [letter.wallet_id for letter in letters],
        [letter.wallet_sequence for letter in letters],
        [letter.raw for letter in letters],
        [letter.error for letter in letters],
    )
    return affected(status)


def _partition_row(record: asyncpg.Record) -> PartitionRow:
    return PartitionRow(
        record["partition"],
        record["epoch"],
        record["opened"],
        record["position"],
        record["left_epoch"],
        record["left_position"],
    )
