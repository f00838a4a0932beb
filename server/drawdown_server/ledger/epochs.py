"""Deletes from Valkey the keys of epochs that were left behind.

Nothing reaches them any more (the epoch is part of their names), but they take memory. A round is one SCAN of a bounded
number of keys, so Valkey is never kept from answering anybody, and a pass is made only while Postgres knows an epoch
whose keys were not swept. Each process sweeps the partitions whose outboxes it records.

An outbox is deleted last of all doubts: what it has beyond its recorded position is copied to dead_letters first, again
if it was before. (It was done when the epoch began, but perhaps on another Valkey than this one.)
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from drawdown_server.errors import StoreUnavailableError
from drawdown_server.holds import keys
from drawdown_server.ledger import streams
from drawdown_server.ledger.salvage import salvage
from drawdown_server.signals import stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from drawdown_server.holds.nodes import Nodes
    from drawdown_server.ledger.partitions import LeftEpoch
    from drawdown_server.ledger.store import LedgerStore

KEYS_PER_ROUND: Final = 500
"""Keys looked at by one SCAN: about 0.1 ms of Valkey's time."""
ROUND_PAUSE_S: Final = 0.005
"""Between two rounds: a pass looks at some 100,000 keys per second at most."""
PASS_PAUSE_S: Final = 5.0
"""Between two looks for something to sweep."""

_log = structlog.get_logger(__name__)


class EpochSweeper:
    """Sweeps old epochs.

    Args:
        nodes: Of the store that is served.
        store: The ledger.
        owned: The partitions that this process looks after now.
    """

    def __init__(self, nodes: Nodes, store: LedgerStore, owned: Callable[[], Collection[int]]) -> None:
        self._nodes = nodes
        self._store = store
        self._owned = owned
        self.keys_total = 0
        """Keys deleted."""

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep until told to stop. Only mistakes of ours end it with an error, never a store that is down."""
        while not stop.is_set():
            try:
                await self.run_once(stop)
            except StoreUnavailableError as error:
                _log.warning("epochs_not_swept", store=error.metadata["store"])
            await stopped(stop, PASS_PAUSE_S)

    async def run_once(self, stop: asyncio.Event) -> int:
        """One pass, if there is anything to sweep.

        Returns:
            How many keys it deleted.

        Raises:
            StoreUnavailableError: A store did not answer; the next pass begins anew.
        """
        owned = set(self._owned())
        left = [row for row in await self._store.list_left_epochs() if row.partition in owned]
        if not left:
            return 0
        by_epoch = {(row.partition, row.epoch): row for row in left}
        homes = {row.partition: self._nodes.of(row.partition) for row in left}
        deleted = 0
        for client in dict.fromkeys(homes.values()):
            cursor = None
            while cursor != 0:
                if stop.is_set():
                    return deleted
                cursor, found = await streams.scan(client, keys.ALL, cursor or 0, KEYS_PER_ROUND)
                deleted += await self._delete([key for key in found if keys.epoch_of(key) in by_epoch], by_epoch)
                await asyncio.sleep(ROUND_PAUSE_S)
        # Keys of a partition that moved meanwhile may have been on neither node when it was looked at.
        swept = [row for row in left if self._nodes.of(row.partition) is homes[row.partition]]
        await self._store.mark_swept(swept)
        _log.info("epochs_swept", epochs=len(swept), keys=deleted)
        return deleted

    async def _delete(self, names: list[str], left: dict[tuple[int, int], LeftEpoch]) -> int:
        for name in names:
            place = keys.epoch_of(name)
            if place is not None and name == keys.outbox(*place):
                await salvage(self._nodes, self._store, *place, left[place].position)
        await streams.unlink(self._nodes, names)
        self.keys_total += len(names)
        return len(names)
