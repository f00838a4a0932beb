"""How far the ledger is behind the live balances: looked at every few seconds, for the metrics.

Every process that records or serves looks at the whole installation, so the numbers are there also when no flusher is:
of several processes they are the same, not parts of a sum. Events and age are exact up to what happens during the
look. Units are those of the first events of each outbox, at most ``EVENTS_DECODED_MAX`` per look over all of them;
those of a longer outbox are estimated from these.

When Postgres does not answer, the positions that it said last are used: nothing was recorded since.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final

import structlog

from drawdown_server.errors import StoreUnavailableError
from drawdown_server.holds import keys
from drawdown_server.ledger import streams
from drawdown_server.ledger.events import EventError, LineKind, decode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from drawdown_server.holds.nodes import Nodes
    from drawdown_server.ledger.rows import PartitionRow
    from drawdown_server.ledger.store import LedgerStore
    from drawdown_server.ledger.streams import StreamEntry, StreamInfo

_log = structlog.get_logger(__name__)

LOOK_INTERVAL_S: Final = 5.0
"""Pause between two looks: as fine as anybody scrapes."""
EVENTS_DECODED_MAX: Final = 1_000
"""Events decoded per look: about 3 ms of the event loop."""
EVENTS_PER_PARTITION_MAX: Final = 100
"""Events read per outbox and look; a command that reads 64 full ones keeps Valkey for about 2 ms."""


class Backlog:
    """What is in the outboxes and not in the ledger.

    Args:
        nodes: Of the store that is served.
        store: The ledger.
    """

    def __init__(self, nodes: Nodes, store: LedgerStore) -> None:
        self._nodes = nodes
        self._store = store
        self._partitions: list[PartitionRow] = []
        self._oldest_age_ms = 0
        self.events = 0
        """Events that are not recorded yet."""
        self.units: Mapping[str, int] = {}
        """Units that they debited, by asset."""
        self.dead_letters = 0
        """Events in ``dead_letters``: recorded as what nobody understood, by any flusher or recovery."""

    @property
    def age_s(self) -> float:
        """Age of the oldest of the events in seconds, as of the last look; 0 = there is none."""
        return self._oldest_age_ms / 1000

    async def run(self, stop: asyncio.Event) -> None:
        """Look until told to stop."""
        while not stop.is_set():
            try:
                await self.run_once()
            except StoreUnavailableError as error:
                _log.warning("backlog.store_unavailable", store=error.metadata["store"])
            try:
                async with asyncio.timeout(LOOK_INTERVAL_S):
                    await stop.wait()
            except TimeoutError:
                continue

    async def run_once(self) -> None:
        """Look once.

        Raises:
            StoreUnavailableError: A store did not answer; without Postgres, only after all that Valkey can tell.
        """
        unavailable = await self._ask_the_ledger()
        waiting = {keys.outbox(row.partition, row.epoch): row.position for row in self._partitions}
        infos = dict(zip(waiting, await streams.read_infos(self._nodes, list(waiting)), strict=True))
        waiting = {key: position for key, position in waiting.items() if _is_behind(infos[key], position)}
        first: dict[str, list[StreamEntry]] = {}
        count = max(1, min(EVENTS_PER_PARTITION_MAX, EVENTS_DECODED_MAX // max(1, len(waiting))))
        if waiting:
            first = await streams.read_streams(self._nodes, waiting, count=count, block_ms=0)
        now_ms = await streams.clocks(self._nodes, {keys.partition_in(key) for key in first})
        self._oldest_age_ms = max(
            (
                max(0, now_ms[keys.partition_in(key)] - streams.id_key(entries[0][0])[0])
                for key, entries in first.items()
            ),
            default=0,
        )
        self._sum_up(infos, first, count)
        if unavailable is not None:
            raise unavailable

    async def _ask_the_ledger(self) -> StoreUnavailableError | None:
        try:
            self._partitions = await self._store.read_partitions()
            self.dead_letters = await self._store.count_dead_letters()
        except StoreUnavailableError as error:
            return error
        return None

    def _sum_up(self, infos: dict[str, StreamInfo], first: dict[str, list[StreamEntry]], count: int) -> None:
        events, units = 0, Counter[str]()
        for key, entries in first.items():
            # A trim keeps the entry at the position: all but that one wait.
            length = len(entries) if len(entries) < count else max(len(entries), infos[key].length - 1)
            events += length
            for asset, debited in _debited(entries).items():
                units[asset] += debited * length // len(entries)
        self.events = events
        self.units = units


def _is_behind(info: StreamInfo, position: str) -> bool:
    """Whether the outbox has events after the position that Postgres has recorded."""
    return info.length > 0 and streams.id_key(info.last_id) > streams.id_key(position)


def _debited(entries: list[StreamEntry]) -> Counter[str]:
    """Units debited by events; what does not decode is the flusher's to complain about."""
    units = Counter[str]()
    for _, raw in entries:
        try:
            lines = decode(raw).lines
        except EventError:
            continue
        for line in lines:
            if line.kind is LineKind.DEBIT:
                units[line.asset] += line.units
    return units
