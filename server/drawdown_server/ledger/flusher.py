"""The flusher: moves events from the outboxes in Valkey into the ledger in Postgres, each exactly once.

One cycle (``run_once``):

    lease      own partitions, renewed before half of the time is over (one UPDATE for all of them)
    read       XREAD every owned outbox after the position that Postgres remembers; no consumer group
    record     one Postgres transaction for all of them; it moves the positions and checks the leases (recording.py).
               A backlog is recorded in two at once, of different partitions: one is planned here while Postgres works
               on the other
    trim       XTRIM MINID up to what is confirmed

A crash anywhere is followed by the same read. A flusher that lost its lease meanwhile is fenced in ``record``: it
forgets what it knows and asks for leases again. A batch that Postgres refuses because of an event's content is
bisected; the event that cannot be recorded goes to dead_letters, with an ERROR in the log, and the others flow.
When a store is down, ``run`` waits (exponentially, with jitter) and goes on; nothing is lost, the outbox only grows.

Any number of flushers may run: the first takes all partitions, the others stand by until its leases are free. One that
meets an event of a newer version records what came before it and gives the partition back for ``LEFT_S``. It does the
same, and records nothing, where events after Postgres' position are gone: Postgres went back in time.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from drawdown_server.errors import StoreUnavailableError
from drawdown_server.holds import keys
from drawdown_server.ledger import streams
from drawdown_server.ledger.lanes import before_newer, lanes
from drawdown_server.ledger.posting import read_event
from drawdown_server.ledger.read_count import ReadCount
from drawdown_server.ledger.recording import FencedError, Move
from drawdown_server.ledger.recovery import POSTGRES_IS_OLD, find_gaps
from drawdown_server.ledger.rows import POSITION_START
from drawdown_server.ledger.writing import PoisonError
from drawdown_server.signals import stopped
from drawdown_server.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from drawdown_server.holds.nodes import Nodes
    from drawdown_server.ledger.posting import OutboxEvent
    from drawdown_server.ledger.rows import LeaseRow
    from drawdown_server.ledger.store import LedgerStore

BACKOFF_FIRST_S: Final = 0.05
"""First wait after a store did not answer; doubles each time."""
BACKOFF_MAX_S: Final = 5.0
"""Longest wait: once the store is back, the backlog is older by this at most."""

LEFT_S: Final = 60.0
"""How long a partition is left alone that this flusher must not record: the next event is of a newer version, or comes
after a gap. Then it is looked at again, and left again with another ERROR in the log."""

LOST_S: Final = 1.0
"""How long the partitions of a node of a cluster are left alone that did not answer, while the others are recorded."""

RENEWALS_PER_TTL: Final = 3
"""Leases are renewed this often within their time to live: one renewal may fail and nobody takes over."""

_log = structlog.get_logger(__name__)


class Flusher:
    """Records the outboxes of the partitions that it can lease.

    Args:
        nodes: With clients of its own (``Nodes.patient``), because its reads block.
        store: The ledger.
        owner: Unique per flusher and process start; another process with the same owner would share its leases.
        batch_max: Most events per transaction.
        block_ms: Longest wait for new events; also how late ``run`` may notice its stop.
        linger_ms: Least time between the starts of two transactions that are not full.
        lease_ttl_ms: How long a flusher that went silent keeps its partitions.
        metrics: Where batches and dead letters are counted; None: nobody reads them.
        run_id: Of the Valkey that this process has claimed; "" = not known.
        on_recorded: Called after each transaction.
    """

    def __init__(
        self,
        nodes: Nodes,
        store: LedgerStore,
        *,
        owner: str,
        batch_max: int,
        block_ms: int,
        linger_ms: int,
        lease_ttl_ms: int,
        metrics: Metrics | None = None,
        run_id: Callable[[], str] = str,
        on_recorded: Callable[[], None] = lambda: None,
    ) -> None:
        self._metrics = metrics or Metrics()
        self._metrics.follow_flusher(self)
        self._nodes = nodes
        self._store = store
        self._owner = owner
        self._batch_max = batch_max
        self._block_ms = block_ms
        self._linger_ms = linger_ms
        self._lease_ttl_ms = lease_ttl_ms
        self._on_recorded = on_recorded
        self._run_id = run_id
        self._leases: dict[int, LeaseRow] = {}
        self._positions: dict[int, str] = {}
        self._left_until: dict[int, float] = {}  # partition -> monotonic seconds; until the next question for leases
        self._lease_due = 0.0  # monotonic seconds
        self._count = ReadCount(batch_max)
        self._progress = asyncio.Condition()
        self.events_total = 0
        """Events taken from the outboxes, dead letters included."""
        self.batches_total = 0
        """Transactions committed."""
        self.last_batch_size = 0
        """Events in the last transaction."""
        self.dead_letters_total = 0
        """Events that could not be recorded."""

    @property
    def owned_partitions(self) -> list[int]:
        """The partitions whose lease it has, as far as it knows."""
        return sorted(self._leases)

    async def run(self, stop: asyncio.Event) -> None:
        """Record until ``stop`` is set. Only mistakes of ours end it with an error, never a store that is down."""
        failures = 0
        while not stop.is_set():
            started = time.monotonic()
            try:
                recorded = await self.run_once(block_ms=self._block_ms)
            except FencedError as error:
                _log.warning("flusher_fenced", owner=self._owner, reason=str(error))
            except StoreUnavailableError as error:
                failures += 1
                delay_s = _backoff_s(failures)
                _log.warning("flusher_waits", store=error.metadata["store"], failures=failures, delay_s=delay_s)
                if error.metadata["store"] == "postgres":
                    await self._end_stuck()
                await stopped(stop, delay_s)
            else:
                failures = 0
                if not self._leases:  # standing by
                    await stopped(stop, self._lease_ttl_ms / 1000 / RENEWALS_PER_TTL)
                elif recorded < self._batch_max:
                    await stopped(stop, started + self._linger_ms / 1000 - time.monotonic())

    async def _end_stuck(self) -> None:
        """Postgres may be waiting for a flusher that was stopped in the middle of its transaction."""
        with suppress(StoreUnavailableError):
            if ended := await self._store.end_stuck_flushes():
                _log.error("flusher_ended_others", owner=self._owner, transactions=ended)

    async def run_once(self, *, block_ms: int = 0) -> int:
        """One cycle.

        Args:
            block_ms: Longest wait for an event when there is none; 0 = no wait.

        Returns:
            How many events it took from the outboxes. 0: there was nothing (or it owns no partition).

        Raises:
            FencedError: Lost a partition; the next cycle asks for leases again.
            StoreUnavailableError: A store did not answer; the next cycle reads the positions again.
        """
        try:
            await self._renew_leases()
            if not self._leases:
                return 0
            found, lost = await self._read(block_ms)
            events, newer = before_newer(found)
            await self._record_lanes(events)
            if events:
                await self._trim({event.partition for event in events})
            await self._give_back(lost, LOST_S)
            if newer:
                await self._leave(newer)
        except BaseException:
            self._forget()
            raise
        return len(events)

    async def drain(self, timeout_s: float) -> bool:
        """Record what is left, then give the leases back; for the end of a process, after ``run`` has ended.

        Returns:
            Whether the outboxes of its partitions were empty in the end. False also where it could not know: it left
            partitions alone whose node did not answer, or that it must not record.
        """
        self._lease_due = 0.0  # what it left alone for long enough, it looks at again
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    with suppress(FencedError):
                        if await self.run_once() == 0:
                            break
                await self._store.release_leases(self._owner)
        except (TimeoutError, StoreUnavailableError) as error:
            _log.warning("flusher_not_drained", owner=self._owner, reason=str(error) or "timeout")
            return False
        finally:
            self._forget()
        if left := len(self._left_until):
            _log.warning("flusher_not_drained", owner=self._owner, reason="left alone", partitions=left)
        return not left

    async def drained(self) -> None:
        """Return once everything that is in the outboxes *now* is recorded by this flusher.

        Waits for as long as another flusher owns a partition that has events.
        """
        partitions = await self._store.read_partitions()
        infos = await streams.read_infos(self._nodes, [keys.outbox(p.partition, p.epoch) for p in partitions])
        targets = {
            row.partition: (row.epoch, streams.id_key(info.last_id))
            for row, info in zip(partitions, infos, strict=True)
            if streams.id_key(info.last_id) > streams.id_key(row.position)
        }
        async with self._progress:
            await self._progress.wait_for(lambda: all(self._reached(p, *target) for p, target in targets.items()))

    def _reached(self, partition: int, epoch: int, last_id: tuple[int, int]) -> bool:
        lease = self._leases.get(partition)
        if lease is None:
            return False
        # A newer epoch has replaced the outbox: nothing of the old one will ever be recorded.
        return lease.epoch > epoch or streams.id_key(self._positions[partition]) >= last_id

    async def _renew_leases(self) -> None:
        if time.monotonic() < self._lease_due:
            return
        asked = time.monotonic()
        before, known = self._leases, self._positions
        self._left_until = {partition: until for partition, until in self._left_until.items() if until > asked}
        rows = await self._store.lease_partitions(
            self._owner, self._lease_ttl_ms, run_id=self._run_id(), except_for=list(self._left_until)
        )
        self._leases = {row.partition: row for row in rows}
        self._positions = {row.partition: row.position for row in rows}
        # Counted from before the question: the lease that Postgres gave began later, never earlier.
        self._lease_due = asked + self._lease_ttl_ms / 1000 / RENEWALS_PER_TTL
        await self._leave_gaps([row for row in rows if known.get(row.partition) != row.position])
        new = {partition for partition in self._leases if partition not in before}
        if new:
            _log.info("flusher_leased", owner=self._owner, partitions=len(new), owned=len(self._leases))
            self._count.begin(len(self._leases))
            # A flusher that crashed between its commit and its trim left recorded events behind.
            await self._trim(new)
        await self._notify()

    async def _leave_gaps(self, rows: Sequence[LeaseRow]) -> None:
        """Give partitions back of which Postgres has forgotten what it had confirmed: nobody may skip it."""
        gaps = await self._find_gaps(rows)
        for row in gaps:
            _log.error(
                "flusher_ledger_behind",
                owner=self._owner,
                partition=row.partition,
                epoch=row.epoch,
                position=row.position,
                hint=POSTGRES_IS_OLD,
            )
        await self._give_back([row.partition for row in gaps], LEFT_S)

    async def _find_gaps(self, rows: Sequence[LeaseRow]) -> list[LeaseRow]:
        """Look at each node on its own: one of several that does not answer costs its own partitions alone."""
        gaps: list[LeaseRow] = []
        by_partition = {row.partition: row for row in rows}
        groups = self._nodes.groups(by_partition)
        for group in groups:
            try:
                gaps += await find_gaps(self._nodes, self._store, [by_partition[partition] for partition in group])
            except StoreUnavailableError as error:
                if error.metadata["store"] == "postgres" or len(groups) == 1:
                    raise
                await self._give_back(group, LOST_S)
        return gaps

    async def _give_back(self, partitions: Sequence[int], seconds: float) -> None:
        """Leave partitions alone for a while; another flusher may have them."""
        for partition in partitions:
            self._left_until[partition] = time.monotonic() + seconds
            del self._leases[partition], self._positions[partition]
        if partitions:
            await self._store.release_leases(self._owner, partitions)

    async def _read(self, block_ms: int) -> tuple[list[OutboxEvent], list[int]]:
        """What is in the outboxes, about ``batch_max`` events, and the partitions whose node did not answer."""
        outboxes = {keys.outbox(row.partition, row.epoch): row for row in self._leases.values()}
        # A blocking read must not sleep through the renewal of the leases.
        until_renewal_ms = int((self._lease_due - time.monotonic()) * 1000)
        found, lost = await streams.try_read_streams(
            self._nodes,
            {key: self._positions[row.partition] for key, row in outboxes.items()},
            count=self._count.value,
            block_ms=max(1, min(block_ms, until_renewal_ms)) if block_ms else 0,
        )
        self._count.adapt([len(entries) for entries in found.values()])
        if lost:
            _log.warning("flusher_node_lost", owner=self._owner, partitions=len(lost))
        events = [
            read_event(outboxes[key].partition, outboxes[key].epoch, stream_id, raw)
            for key, entries in found.items()
            for stream_id, raw in entries
        ]
        return events, [outboxes[key].partition for key in lost]

    async def _leave(self, newer: Sequence[OutboxEvent]) -> None:
        """Give partitions back whose next event is of a newer version."""
        for event in newer:
            _log.error(
                "flusher_too_old",
                owner=self._owner,
                partition=event.partition,
                epoch=event.epoch,
                stream_id=event.stream_id,
                error=event.error,
            )
        await self._give_back([event.partition for event in newer], LEFT_S)
        self._forget()

    async def _record_lanes(self, events: Sequence[OutboxEvent]) -> None:
        """Record what was read, a large batch in several transactions at once, each of its own partitions."""
        results = await asyncio.gather(*(self._record_lane(lane) for lane in lanes(events)), return_exceptions=True)
        for result in results:
            if result is not None:
                raise result

    async def _record_lane(self, events: Sequence[OutboxEvent]) -> None:
        for start in range(0, len(events), self._batch_max):
            await self._record(events[start : start + self._batch_max])

    async def _record(self, events: Sequence[OutboxEvent]) -> None:
        """Record events in one transaction; when they hold poison, in halves, down to the poison itself."""
        moves = self._moves(events)
        try:
            dead = await self._store.record(moves, events)
        except PoisonError as error:
            if len(events) > 1:
                middle = len(events) // 2
                await self._record(events[:middle])
                await self._record(events[middle:])
                return
            events = [msgspec.structs.replace(events[0], error=str(error))]
            dead = await self._store.record(moves, events)
        for letter in dead:
            _log.error(
                "dead_letter",
                partition=letter.partition,
                epoch=letter.epoch,
                stream_id=letter.stream_id,
                tenant_id=letter.tenant_id,
                wallet_id=letter.wallet_id,
                wallet_sequence=letter.wallet_sequence,
                error=letter.error,
            )
        for move in moves:
            self._positions[move.partition] = move.position_to
        self.events_total += len(events)
        self.dead_letters_total += len(dead)
        self.batches_total += 1
        self.last_batch_size = len(events)
        self._metrics.batch_recorded(len(events), len(dead))
        self._on_recorded()
        await self._notify()

    def _moves(self, events: Sequence[OutboxEvent]) -> list[Move]:
        last = {event.partition: event.stream_id for event in events}
        return [
            Move(
                partition=partition,
                epoch=self._leases[partition].epoch,
                lease_token=self._leases[partition].lease_token,
                position_from=self._positions[partition],
                position_to=position,
            )
            for partition, position in sorted(last.items())
        ]

    async def _trim(self, partitions: set[int]) -> None:
        positions = {
            keys.outbox(partition, self._leases[partition].epoch): self._positions[partition]
            for partition in partitions
            if self._positions[partition] != POSITION_START
        }
        if positions:
            await streams.trim(self._nodes, positions)

    def _forget(self) -> None:
        """After any failure, what Postgres has may differ from what we remember: ask again."""
        self._leases = {}
        self._positions = {}
        self._lease_due = 0.0

    async def _notify(self) -> None:
        async with self._progress:
            self._progress.notify_all()


def _backoff_s(failures: int) -> float:
    """How long to wait after so many failures in a row; jitter keeps many flushers from coming back as one."""
    limit_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 10))
    return round(limit_s * random.uniform(0.5, 1), 3)  # noqa: S311 - not a secret
