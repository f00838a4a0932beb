"""How far the ledger is behind the live balances: looked at every few seconds, for the metrics.

Every process that records or serves looks at the whole installation, so the numbers are there also when no flusher is:
of several processes they are the same, not parts of a sum. Events and age are exact up to what happens during the
look. Units are those of the first events of each outbox, at most ``EVENTS_DECODED_MAX`` per look over all of them;
those of a longer outbox are estimated from these.

When Postgres does not answer, the positions that it said last are used: nothing was recorded since. A node of Valkey
that does not answer counts with what waited there at the last look, which gets older, until Postgres says that it is
recorded. What came there later is not seen.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from drawdown_server import clock
from drawdown_server.errors import StoreUnavailableError
from drawdown_server.holds import keys
from drawdown_server.ledger import streams
from drawdown_server.ledger.events import EventError, LineKind, decode
from drawdown_server.signals import stopped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from drawdown_server.holds.nodes import Nodes
    from drawdown_server.ledger.rows import PartitionRow
    from drawdown_server.ledger.store import LedgerStore
    from drawdown_server.ledger.streams import StreamEntry

_log = structlog.get_logger(__name__)

LOOK_INTERVAL_S: Final = 5.0
"""Pause between two looks: as fine as anybody scrapes."""
EVENTS_DECODED_MAX: Final = 1_000
"""Events decoded per look: about 3 ms of the event loop."""
EVENTS_PER_PARTITION_MAX: Final = 100
"""Events read per outbox and look; a command that reads 64 full ones keeps Valkey for about 2 ms."""


class Waiting(NamedTuple):
    """What an outbox had that the ledger did not, when it was looked at last."""

    last_id: str
    """Of the newest event."""
    since_s: float
    """When the oldest one was appended, by our own clock (``clock.monotonic_s``)."""
    events: int
    units: Mapping[str, int]
    """Debited by them, by asset."""


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
        self._waiting: dict[str, Waiting] = {}
        """By outbox; only those that have some."""
        self.events = 0
        """Events that are not recorded yet."""
        self.units: Mapping[str, int] = {}
        """Units that they debited, by asset."""
        self.age_s = 0.0
        """Age of the oldest of the events in seconds, as of the last look; 0 = there is none."""
        self.dead_letters = 0
        """Events in ``dead_letters``: recorded as what nobody understood, by any flusher or recovery."""

    async def run(self, stop: asyncio.Event) -> None:
        """Look until told to stop."""
        while not stop.is_set():
            try:
                await self.run_once()
            except StoreUnavailableError as error:
                _log.warning("backlog.store_unavailable", store=error.metadata["store"])
            await stopped(stop, LOOK_INTERVAL_S)

    async def run_once(self) -> None:
        """Look once.

        Raises:
            StoreUnavailableError: A store did not answer; after all that the others can tell.
        """
        unavailable = await self._ask_the_ledger()
        rows = {row.partition: row for row in self._partitions}
        groups = self._nodes.groups(rows)
        waiting: dict[str, Waiting] = {}
        for group in groups:
            positions = {keys.outbox(partition, rows[partition].epoch): rows[partition].position for partition in group}
            try:
                waiting |= await self._look(positions, EVENTS_DECODED_MAX // len(groups))
            except StoreUnavailableError as error:
                unavailable = error
                waiting |= self._known_of(positions)
        self._waiting = waiting
        self._sum_up()
        if unavailable is not None:
            raise unavailable

    async def _ask_the_ledger(self) -> StoreUnavailableError | None:
        try:
            self._partitions = await self._store.read_partitions()
            self.dead_letters = await self._store.count_dead_letters()
        except StoreUnavailableError as error:
            return error
        return None

    async def _look(self, positions: Mapping[str, str], decoded_max: int) -> dict[str, Waiting]:
        """What waits in outboxes of one node, after the positions that Postgres has recorded."""
        infos = dict(zip(positions, await streams.read_infos(self._nodes, list(positions)), strict=True))
        behind = {
            key: position
            for key, position in positions.items()
            if infos[key].length > 0 and _is_behind(infos[key].last_id, position)
        }
        if not behind:
            return {}
        count = max(1, min(EVENTS_PER_PARTITION_MAX, decoded_max // len(behind)))
        first = await streams.read_streams(self._nodes, behind, count=count, block_ms=0)
        clocks_ms = await streams.clocks(self._nodes, [keys.partition_in(key) for key in first])
        now_s = clock.monotonic_s()
        waiting = {}
        for key, entries in first.items():
            age_ms = max(0, clocks_ms[keys.partition_in(key)] - streams.id_key(entries[0][0])[0])
            # A trim keeps the entry at the position: all but that one wait.
            events = len(entries) if len(entries) < count else max(len(entries), infos[key].length - 1)
            units = {asset: debited * events // len(entries) for asset, debited in _debited(entries).items()}
            waiting[key] = Waiting(infos[key].last_id, now_s - age_ms / 1000, events, units)
        return waiting

    def _known_of(self, positions: Mapping[str, str]) -> dict[str, Waiting]:
        """What waited in outboxes of a node that does not answer, and is not recorded, as far as Postgres says."""
        return {
            key: self._waiting[key]
            for key, position in positions.items()
            if key in self._waiting and _is_behind(self._waiting[key].last_id, position)
        }

    def _sum_up(self) -> None:
        units = Counter[str]()
        for one in self._waiting.values():
            units.update(one.units)
        self.units = units
        self.events = sum(one.events for one in self._waiting.values())
        now_s = clock.monotonic_s()
        self.age_s = max((now_s - one.since_s for one in self._waiting.values()), default=0.0)


def _is_behind(last_id: str, position: str) -> bool:
    """Whether an outbox with this newest event has some after the position that Postgres has recorded."""
    return streams.id_key(last_id) > streams.id_key(position)


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
