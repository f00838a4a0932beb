"""Writes what ``plan`` planned: inside the flush's transaction, one statement per table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drawdown_server.ledger.counters import parse_counter
from drawdown_server.ledger.database import affected, from_ms
from drawdown_server.ledger.partitions import insert_dead_letters
from drawdown_server.ledger.posting import ENTRY_COLUMNS
from drawdown_server.ledger.queries import QUERIES

if TYPE_CHECKING:
    from drawdown_server.ledger.database import Connection
    from drawdown_server.ledger.lines import Delta
    from drawdown_server.ledger.posting import AssetKey, CapKey, CounterKey, GrantKey, GrantLife, Posting
    from drawdown_server.ledger.settlement import HoldKey, HoldRecord

SETTLED_HOLD_COLUMNS: Final = (
    "tenant_id",
    "wallet_id",
    "hold_id",
    "create_time",
    "first_sequence",
    "wallet_sequence",
    "final",
    "late",
    "amounts",
    "refunds",
    "subjects",
    "labels",
    "settle_time",
)
HOLD_EVENT_COLUMNS: Final = ("tenant_id", "wallet_id", "hold_id", "wallet_sequence")


class PoisonError(Exception):
    """Something in the batch cannot be recorded; nothing was. The message says what Postgres said."""


async def write(connection: Connection, posting: Posting) -> None:
    """Write everything.

    Raises:
        PoisonError: A line names a grant that is not there.
    """
    if posting.entries:
        await connection.copy_records_to_table("entries", records=posting.entries, columns=ENTRY_COLUMNS)
    await _write_holds(connection, posting)
    if posting.balances:
        await _write_balances(connection, posting.balances)
    if posting.grants:
        await _write_remaining(connection, posting.grants)
    if posting.lives:
        await _write_lives(connection, posting.lives)
    await _write_caps(connection, posting)
    if posting.cap_usage:
        await _write_cap_usage(connection, posting.cap_usage)
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


async def _write_holds(connection: Connection, posting: Posting) -> None:
    new = [(key, record) for key, record in posting.holds.items() if record.is_new]
    if new:
        await connection.copy_records_to_table(
            "settled_holds",
            records=[
                (
                    *key[:3],
                    from_ms(key[3]),
                    record.first_sequence,
                    record.wallet_sequence,
                    record.final,
                    record.late,
                    record.amounts_json(),
                    record.refunds_json(),
                    record.subjects,
                    record.labels,
                    record.settle_time,
                )
                for key, record in new
            ],
            columns=SETTLED_HOLD_COLUMNS,
        )
    known = [(key, record) for key, record in posting.holds.items() if not record.is_new]
    if known:
        await _change_holds(connection, known)
    if posting.hold_events:
        await connection.copy_records_to_table("hold_events", records=posting.hold_events, columns=HOLD_EVENT_COLUMNS)


async def _change_holds(connection: Connection, known: list[tuple[HoldKey, HoldRecord]]) -> None:
    await connection.execute(
        QUERIES["flush_holds_change"],
        [key[0] for key, _ in known],
        [key[1] for key, _ in known],
        [key[2] for key, _ in known],
        [from_ms(key[3]) for key, _ in known],
        [record.wallet_sequence for _, record in known],
        [record.final for _, record in known],
        [record.late for _, record in known],
        [record.amounts_json() for _, record in known],
        [record.refunds_json() for _, record in known],
        [record.settle_time for _, record in known],
    )


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
        [delta.overdraft_limit for delta in deltas],
    )
    return affected(status)


async def _write_remaining(connection: Connection, grants: dict[tuple[str, str, str, str], int]) -> None:
    keys = list(grants)
    status = await connection.execute(
        QUERIES["flush_grants_remaining"],
        [key[0] for key in keys],
        [key[1] for key in keys],
        [key[2] for key in keys],
        [key[3] for key in keys],
        list(grants.values()),
    )
    if affected(status) != len(keys):
        raise PoisonError("a line names a grant that the wallet does not have")


async def _write_lives(connection: Connection, lives: dict[GrantKey, GrantLife]) -> None:
    keys = list(lives)
    await connection.execute(
        QUERIES["flush_grant_lives"],
        [key[0] for key in keys],
        [key[1] for key in keys],
        [key[2] for key in keys],
        [life.live for life in lives.values()],
        [life.void for life in lives.values()],
        [life.expire_ms is not None for life in lives.values()],
        [from_ms(life.expire_ms or 0) for life in lives.values()],
    )


async def _write_caps(connection: Connection, posting: Posting) -> None:
    gone: list[CapKey] = [key for key, (_, cap) in posting.caps.items() if cap is None]
    if gone:
        await connection.execute(QUERIES["flush_caps_remove"], *([key[i] for key in gone] for i in range(5)))
    there = [(key, number, cap) for key, (number, cap) in posting.caps.items() if cap is not None]
    if there:
        await connection.execute(
            QUERIES["flush_caps_set"],
            *([key[i] for key, _, _ in there] for i in range(5)),
            [cap.limit for _, _, cap in there],
            [cap.mode for _, _, cap in there],
            [number for _, number, _ in there],
        )


async def _write_cap_usage(connection: Connection, usage: dict[CounterKey, int]) -> None:
    keys = list(usage)
    await connection.execute(
        QUERIES["flush_cap_usage"],
        [key[0] for key in keys],
        [key[1] for key in keys],
        [key[2] for key in keys],
        list(usage.values()),
        [parse_counter(key[2]).end_time for key in keys],
    )
