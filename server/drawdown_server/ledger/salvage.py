"""Copies what an epoch that was left behind had not recorded yet to dead_letters, for a person to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from drawdown_server.holds import keys
from drawdown_server.ledger import streams
from drawdown_server.ledger.posting import dead_letter, read_event

if TYPE_CHECKING:
    from drawdown_server.holds.nodes import Nodes
    from drawdown_server.ledger.store import LedgerStore

SALVAGE_PAGE: Final = 500
"""Events copied to dead_letters at once."""

_log = structlog.get_logger(__name__)


async def salvage(nodes: Nodes, store: LedgerStore, partition: int, epoch: int, position: str) -> int:
    """Copy the events of an outbox after its recorded position; those that are there already stay as they are.

    Returns:
        How many were not there yet.
    """
    outbox = keys.outbox(partition, epoch)
    error = f"left behind in epoch {epoch}, whose state in Valkey was lost"
    copied = 0
    while entries := await streams.range_after(nodes, outbox, position, SALVAGE_PAGE):
        copied += await store.create_dead_letters(
            [dead_letter(read_event(partition, epoch, stream_id, raw), error) for stream_id, raw in entries]
        )
        position = entries[-1][0]
    if copied:
        _log.error("partition_left_events", partition=partition, left_epoch=epoch, dead_letters=copied)
    return copied
