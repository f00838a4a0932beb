"""How fast the flusher drains a backlog, on its own embedded stores.

    python tests/bench/flush_rate.py [--events 40000] [--wallets 1000] [--assets 2] [--batch 2000]

Fills the outboxes with COMMIT events (one debit line per asset) of wallets with one grant per asset, spread over 64
partitions, then measures how long the flusher takes to record them all. Both stores run on this machine and share its
cores with the flusher; durability is on (appendfsync always, fsync). Prints one line.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import uvloop
from redis.asyncio import Redis

from drawdown_server.config import Config
from drawdown_server.dev.postgres import PostgresProcess
from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.holds.keys import outbox, partition_of
from drawdown_server.holds.model import GrantSource, OveragePolicy
from drawdown_server.holds.nodes import OneNode
from drawdown_server.ledger.database import open_pool
from drawdown_server.ledger.events import Event, EventKind, Line, LineKind, SettledAmount, encode
from drawdown_server.ledger.flusher import Flusher
from drawdown_server.ledger.migrations import migrate
from drawdown_server.ledger.recovery import open_partitions
from drawdown_server.ledger.store import LedgerStore

TENANT = "default"
PARTITIONS = 64
GRANT_UNITS = 10**12
PIPELINE = 1000
LEASE_TTL_MS = 60_000
"""Longer than another row of a table takes, while nobody renews the leases."""


async def fund(store: LedgerStore, redis: Redis, wallets: list[str], assets: list[str]) -> None:
    """Wallets with one applied grant per asset; their events are in the outboxes."""
    for asset in assets:
        await store.create_asset(TENANT, asset, 0, "", OveragePolicy.CHARGE_AVAILABLE)

    async def one(wallet_id: str) -> None:
        partition = partition_of(TENANT, wallet_id, PARTITIONS)
        await store.create_wallet(TENANT, wallet_id, partition, "", {})
        for number, asset in enumerate(assets, start=1):
            await store.create_grant(
                TENANT,
                wallet_id,
                f"grant_{asset}",
                asset=asset,
                units=GRANT_UNITS,
                priority=0,
                source=GrantSource.PURCHASE,
                effective_ms=0,
                expire_ms=0,
                labels={},
            )
            lines = [Line(LineKind.GRANT, asset, GRANT_UNITS, f"grant_{asset}")]
            event = Event(
                version=1,
                kind=EventKind.GRANT,
                tenant_id=TENANT,
                wallet_id=wallet_id,
                wallet_sequence=number,
                time_ms=now_ms(),
                change_number=number,
                hold_id="",
                lines=lines,
                amounts=[],
                subjects=[],
                labels="",
                hold_create_ms=0,
                late=False,
                final=True,
                refund_id="",
                cap_usage=[],
            )
            await redis.xadd(outbox(partition, 1), {b"e": encode(event)})

    for start in range(0, len(wallets), 8):
        await asyncio.gather(*(one(wallet) for wallet in wallets[start : start + 8]))


async def fill(redis: Redis, wallets: list[str], assets: list[str], events: int, done: int) -> None:
    """So many COMMIT events, round robin over the wallets; ``done`` rounds were filled before."""
    rounds = -(-events // len(wallets))
    pipeline = redis.pipeline(transaction=False)
    for number in range(events):
        wallet_id = wallets[number % len(wallets)]
        sequence = len(assets) + 1 + done * rounds + number // len(wallets)
        event = Event(
            1,
            EventKind.COMMIT,
            TENANT,
            wallet_id,
            sequence,
            now_ms(),
            0,
            f"hold_{sequence}_{number:032d}",
            [Line(LineKind.DEBIT, asset, 7, f"grant_{asset}") for asset in assets],
            [SettledAmount(asset, 10, 7, 0) for asset in assets],
            ["key:sk_1", "model:m-large"],
            '{"request":"r1"}',
            now_ms(),
            late=False,
            final=True,
            refund_id="",
            cap_usage=[],
        )
        pipeline.xadd(outbox(partition_of(TENANT, wallet_id, PARTITIONS), 1), {b"e": encode(event)})
        if len(pipeline) >= PIPELINE:
            await pipeline.execute()
    await pipeline.execute()


def now_ms() -> int:
    """Milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Drain:
    """A backlog that was recorded."""

    events: int
    batches: int
    seconds: float
    cpu_s: float
    """Of this process, which the flusher runs in."""


class Outboxes:
    """Outboxes to fill and to drain, on stores of their own.

    Args:
        redis: A client of an empty Valkey.
        store: An empty ledger.
        wallets: How many to spread the events over.
        assets: One debit line per event for each.
        batch_max: Events per transaction.
    """

    def __init__(self, redis: Redis, store: LedgerStore, *, wallets: int, assets: int, batch_max: int) -> None:
        self._redis = redis
        self._store = store
        self._wallets = [f"wallet_{number}" for number in range(wallets)]
        self.assets = ["USD", "MODEL_TOKENS", "GPU_SECONDS", "IMAGE_CREDITS"][:assets]
        self._filled = 0
        self._flusher = Flusher(
            OneNode(redis),
            store,
            owner="bench",
            batch_max=batch_max,
            block_ms=500,
            linger_ms=0,
            lease_ttl_ms=LEASE_TTL_MS,
        )

    async def open(self) -> None:
        """Make the wallets, and record their grants."""
        await self._store.ensure_partitions(PARTITIONS)
        await open_partitions(OneNode(self._redis), self._store, PARTITIONS)
        await fund(self._store, self._redis, self._wallets, self.assets)
        while await self._flusher.run_once():
            pass

    async def drain(self, events: int) -> Drain:
        """Fill them with so many events, always as many, and record them all."""
        await fill(self._redis, self._wallets, self.assets, events, self._filled)
        self._filled += 1
        batches, dead = self._flusher.batches_total, self._flusher.dead_letters_total
        started, cpu_s = time.perf_counter(), time.process_time()
        drained = 0
        while taken := await self._flusher.run_once():
            drained += taken
        drain = Drain(
            drained,
            self._flusher.batches_total - batches,
            time.perf_counter() - started,
            time.process_time() - cpu_s,
        )
        assert (drained, self._flusher.dead_letters_total) == (events, dead), "every event is recorded"
        return drain


async def measure(valkey_url: str, postgres_url: str, options: argparse.Namespace) -> None:
    """Three drains of the same size; the first warms up."""
    await migrate(postgres_url)
    config = Config(postgres_url=postgres_url, valkey_url=valkey_url)
    async with contextlib.AsyncExitStack() as stack:
        store = LedgerStore(await stack.enter_async_context(open_pool(config)))
        redis = Redis.from_url(valkey_url)
        stack.push_async_callback(redis.aclose)
        outboxes = Outboxes(redis, store, wallets=options.wallets, assets=options.assets, batch_max=options.batch)
        await outboxes.open()
        rates = []
        for _ in range(3):
            drain = await outboxes.drain(options.events)
            rates.append(drain.events / drain.seconds)
            sys.stdout.write(
                f"{rates[-1]:8.0f} events/s {rates[-1] * options.assets:8.0f} entries/s in "
                f"{drain.batches} batches, flusher's own cpu {drain.cpu_s / drain.events * 1e6:.1f} us/event\n"
            )
        sys.stdout.write(f"flush_rate: {max(rates):.0f} events/s, {max(rates) * options.assets:.0f} entries/s\n")


def main() -> None:
    """Parse the command line, start the stores, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=40_000)
    parser.add_argument("--wallets", type=int, default=1_000)
    parser.add_argument("--assets", type=int, default=2, choices=range(1, 5))
    parser.add_argument("--batch", type=int, default=2_000)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="drawdown-bench-") as directory,
        ValkeyProcess(Path(directory) / "valkey") as valkey,
        PostgresProcess(Path(directory) / "postgres") as postgres,
    ):
        uvloop.run(measure(valkey.url, postgres.url, options))


if __name__ == "__main__":
    main()
