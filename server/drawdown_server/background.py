"""What a process does besides answering calls: what is due, what is idle, what the ledger must still record.

Every server does all of it, ``flush`` alone sweeps and records, and none relies on being the one: sweeps, wakes,
evictions and changes are scripts that have no effect the second time, and of all flushers the leases decide which one
records a partition.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from drawdown_server.holds.sweeper import Sweeper
from drawdown_server.ledger.backlog import Backlog
from drawdown_server.ledger.epochs import EpochSweeper
from drawdown_server.ledger.flusher import Flusher
from drawdown_server.ledger.reconciler import Reconciler
from drawdown_server.stores import process_name
from drawdown_server.wallets.evictor import Evictor
from drawdown_server.wallets.waker import Waker

if TYPE_CHECKING:
    from drawdown_server.config import Config
    from drawdown_server.stores import Stores
    from drawdown_server.telemetry.metrics import Metrics
    from drawdown_server.wallets.changes import ChangeApplier

DRAIN_EXTRA_S: Final = 10.0
"""How long the flusher may take at shutdown to record what is in the outbox; the rest waits safely in Valkey."""
BLOCKING_READ_EXTRA_MS: Final = 2_000
"""A blocking read is answered this much later than asked for at the latest."""


async def run_background(
    config: Config, stores: Stores, metrics: Metrics, changes: ChangeApplier, stop: asyncio.Event
) -> None:
    """All of it, beside a server, until told to stop. One that dies ends the others with its error."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(run_sweeper(config, stores, metrics, stop), name="sweeper")
        tasks.create_task(changes.run(stop), name="changes")
        tasks.create_task(run_idle_wallets(config, stores, stop), name="idle wallets")
        tasks.create_task(run_backlog(stores, metrics, stop), name="backlog")
        if config.flusher:
            tasks.create_task(run_flusher(config, stores, metrics, stop), name="flusher")


async def run_sweeper(config: Config, stores: Stores, metrics: Metrics, stop: asyncio.Event) -> None:
    """Free holds that are due, until told to stop."""
    sweeper = Sweeper(stores.holds, interval_ms=config.sweep_interval_ms, tombstone_ms=config.tombstone_ms)
    metrics.follow_sweeper(sweeper)
    await sweeper.run(stop)


async def run_backlog(stores: Stores, metrics: Metrics, stop: asyncio.Event) -> None:
    """Look how far the ledger is behind, until told to stop."""
    backlog = Backlog(stores.nodes, stores.ledger)
    metrics.follow_backlog(backlog)
    await backlog.run(stop)


async def run_idle_wallets(config: Config, stores: Stores, stop: asyncio.Event) -> None:
    """Evict wallets that nobody uses, and wake those for which something is due, until told to stop."""
    async with asyncio.TaskGroup() as tasks:
        waker = Waker(stores.holds, stores.ledger, tombstone_ms=config.tombstone_ms)
        tasks.create_task(waker.run(stop), name="waker")
        if config.evict_idle_s:
            evictor = Evictor(
                stores.nodes,
                stores.holds,
                stores.ledger,
                idle_s=config.evict_idle_s,
                interval_ms=config.evict_interval_ms,
            )
            tasks.create_task(evictor.run(stop), name="evictor")


async def run_flusher(config: Config, stores: Stores, metrics: Metrics, stop: asyncio.Event) -> None:
    """Flush until told to stop, then record what is left and give the partitions back.

    Who records a partition also looks after what it left behind, and whether it is right.
    """
    timeout_ms = max(config.valkey_timeout_ms, config.flush_block_ms + BLOCKING_READ_EXTRA_MS)
    async with stores.nodes.patient(timeout_ms) as nodes:
        flusher = Flusher(
            nodes,
            stores.ledger,
            owner=process_name(),
            batch_max=config.flush_batch_max,
            block_ms=config.flush_block_ms,
            linger_ms=config.flush_linger_ms,
            lease_ttl_ms=config.lease_ttl_ms,
            metrics=metrics,
            run_id=lambda: stores.presence.run_id,
            on_recorded=stores.confirmations.recorded,
        )

        def owned() -> list[int]:
            return flusher.owned_partitions

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(EpochSweeper(stores.nodes, stores.ledger, owned).run(stop), name="epochs")
            if config.reconcile_interval_s:
                reconciler = Reconciler(stores.holds, stores.ledger, owned, interval_s=config.reconcile_interval_s)
                metrics.follow_reconciler(reconciler)
                tasks.create_task(reconciler.run(stop), name="reconciler")
            await flusher.run(stop)
        await flusher.drain(DRAIN_EXTRA_S)
