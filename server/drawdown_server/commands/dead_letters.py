"""``drawdown-server dead-letters``: the events that could not be recorded, each with what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import typer

from drawdown_server.commands.opening import open_ledger
from drawdown_server.commands.output import counted
from drawdown_server.ledger.posting import read_event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from drawdown_server.config import Config
    from drawdown_server.ledger.events import Event
    from drawdown_server.ledger.rows import DeadLetterRow
    from drawdown_server.ledger.store import LedgerStore

PAGE: Final = 500


class DeadLetter(msgspec.Struct, frozen=True):
    """One of them, for programs."""

    partition: int
    epoch: int
    stream_id: str
    tenant_id: str
    wallet_id: str
    wallet_sequence: int
    error: str
    event: Event | None
    """None when it cannot be decoded."""
    raw: bytes
    """As it was in the outbox; base64 in JSON."""


async def run_dead_letters(config: Config, *, as_json: bool) -> int:
    """Print every dead letter: a line each, or a JSON object each.

    Raises:
        StoreUnavailableError: Postgres did not answer.
    """
    count = 0
    async with open_ledger(config) as ledger:
        async for row in _rows(ledger):
            count += 1
            event = read_event(row.partition, row.epoch, row.stream_id, row.raw).event
            typer.echo(_json(row, event) if as_json else _sentence(row, event))
    if not as_json:
        typer.echo(f"{counted(count, 'dead letter')}" if count else "no dead letters")
    return 0


async def _rows(ledger: LedgerStore) -> AsyncIterator[DeadLetterRow]:
    after = (-1, 0, "")
    while page := await ledger.list_dead_letters(after=after, limit=PAGE):
        for row in page:
            yield row
        after = (page[-1].partition, page[-1].epoch, page[-1].stream_id)


def _json(row: DeadLetterRow, event: Event | None) -> str:
    letter = DeadLetter(
        partition=row.partition,
        epoch=row.epoch,
        stream_id=row.stream_id,
        tenant_id=row.tenant_id,
        wallet_id=row.wallet_id,
        wallet_sequence=row.wallet_sequence,
        error=row.error,
        event=None,
        raw=row.raw,
    )
    built = msgspec.to_builtins(letter)
    built["event"] = None if event is None else _by_name(event)
    return msgspec.json.encode(built).decode()


def _by_name(event: Event) -> dict[str, object]:
    """An event is an array in the outbox; people and programs want names."""
    return {name: msgspec.to_builtins(getattr(event, name)) for name in event.__struct_fields__}


def _sentence(row: DeadLetterRow, event: Event | None) -> str:
    place = f"partition {row.partition}, epoch {row.epoch}, {row.stream_id}"
    if event is None:
        return f"{place}: {len(row.raw)} bytes that are no event: {row.error}"
    lines = ", ".join(f"{line.kind} {line.units} {line.asset} of grant {line.grant_id or '-'}" for line in event.lines)
    hold = f" of hold {event.hold_id}" if event.hold_id else ""
    return (
        f"{place}: tenant {row.tenant_id}, wallet {row.wallet_id}, event {row.wallet_sequence}, "
        f"{event.kind}{hold} ({lines or 'no lines'}): {row.error}"
    )
