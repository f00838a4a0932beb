"""What of a read the flusher may record, and in which transactions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drawdown_server.ledger.posting import OutboxEvent

LANES: Final = 2
"""Transactions at once on a backlog: this process plans one while Postgres writes the other. A third would wait."""
LANE_EVENTS_MIN: Final = 200
"""A smaller batch is one transaction: what it costs beside its rows (a fence, a commit to disk) is paid once."""


def before_newer(events: Sequence[OutboxEvent]) -> tuple[list[OutboxEvent], list[OutboxEvent]]:
    """Of each partition the events before the first of a newer version; and these first ones."""
    before: list[OutboxEvent] = []
    newer: dict[int, OutboxEvent] = {}
    for event in events:
        if event.newer:
            newer.setdefault(event.partition, event)
        elif event.partition not in newer:
            before.append(event)
    return before, list(newer.values())


def lanes(events: Sequence[OutboxEvent]) -> list[list[OutboxEvent]]:
    """The events by partition in lanes of about the same size, the order of each outbox as it was."""
    if len(events) < LANES * LANE_EVENTS_MIN:
        return [list(events)]
    found: list[list[OutboxEvent]] = [[] for _ in range(LANES)]
    by_partition: dict[int, list[OutboxEvent]] = {}
    for event in events:
        by_partition.setdefault(event.partition, []).append(event)
    for outbox in sorted(by_partition.values(), key=len, reverse=True):
        min(found, key=len).extend(outbox)
    return [lane for lane in found if lane]
