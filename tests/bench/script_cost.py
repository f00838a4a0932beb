"""What the hold scripts cost: server time, bytes written to disk and memory, by the shape of the wallet.

    python tests/bench/script_cost.py [--rounds 15] [--wallets 20] [--lua DIRECTORY] [--realtime]

Starts its own Valkey and sends what a server sends (``HoldStore``). Every round goes through all shapes, so that a busy
machine slows all of them, and a ratio is the median of the rounds' own ratios. README.md explains the tables.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.holds import keys
from drawdown_server.holds.connection import open_connection
from drawdown_server.holds.fingerprint import fingerprint
from drawdown_server.holds.library import PARTS, build_library, load_library
from drawdown_server.holds.messages import (
    AmountRequest,
    AuthorizeRequest,
    ChargeRequest,
    CommitRequest,
    LoadedAsset,
    LoadRequest,
    PackedGrant,
    RefundRequest,
    ReleaseRequest,
    SweepRequest,
    TotalUsed,
)
from drawdown_server.holds.model import Cap, CapMode, CapWindow, ExpiryAction, GrantSource, WalletState
from drawdown_server.holds.startup import open_client
from drawdown_server.holds.store import HoldStore

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from redis.asyncio import Redis

TENANT = "default"
PARTITION = 0
ASSETS = ("USD", "MODEL_TOKENS")
SUBJECTS = ["key:sk_live_1", "user:42"]
CAPS = (("", CapWindow.MONTH), ("key:*", CapWindow.DAY), ("user:42", CapWindow.HOUR))
"""Subject and window of the caps that a request meets, of each asset."""
GRANT_UNITS = 10**9
CAP_LIMIT = 10**15
USED = 7
"""Units of a hold, unless all grants pay."""
CYCLES = 6
"""Times a round puts a wallet of each shape through its verbs. The first time is not measured: it pays for the garbage
that the shape before has left in the Lua interpreter."""
VERBS = ("authorize", "commit", "release", "charge", "refund")
SETTINGS = (
    "auto-aof-rewrite-percentage 0",
    # The store's own histogram of server times, one number for each tenth of the calls. Their mean is that of the
    # calls, but for the slowest: on a busy machine other processes interrupt some for milliseconds.
    "latency-tracking-info-percentiles 5 15 25 35 45 55 65 75 85 95",
)
DAY_MS = 86_400_000
CREATE_MS = 1_700_000_000_000
EXPIRE_MS = 4_000_000_000_000
TTL_MS = 300_000
TOMBSTONE_MS = 1
OPEN_HOLDS = 200
"""Holds that are opened to see what one takes."""


@dataclass(frozen=True)
class Shape:
    """A kind of wallet, and what is asked of it."""

    name: str
    grants: tuple[int, ...] = (1,)
    """Live grants by asset."""
    caps: tuple[int, ...] = (0,)
    """Caps that a request meets, by asset."""
    all_pay: bool = False
    """A hold takes all units of all grants; else a few of the first."""

    @property
    def units(self) -> dict[str, int]:
        """What a hold takes of each asset."""
        return {
            asset: GRANT_UNITS * grants if self.all_pay else USED
            for asset, grants in zip(ASSETS, self.grants, strict=False)
        }


SHAPES = (
    Shape("1 asset, 1 grant, no cap"),
    Shape("2 assets", grants=(1, 1), caps=(0, 0)),
    Shape("10 grants", grants=(10,)),
    Shape("10 grants, all pay", grants=(10,), all_pay=True),
    Shape("3 caps", caps=(3,)),
    Shape("2 assets, 10 grants and 3 caps in all", grants=(5, 5), caps=(2, 1)),
    Shape("the same, all grants pay", grants=(5, 5), caps=(2, 1), all_pay=True),
    Shape("2 assets, 10 grants and 3 caps each", grants=(10, 10), caps=(3, 3)),
    Shape("the same, all grants pay", grants=(10, 10), caps=(3, 3), all_pay=True),
    Shape("100 grants", grants=(100,)),
    Shape("1,000 grants", grants=(1000,)),
    Shape("1,000 grants, all pay", grants=(1000,), all_pay=True),
)


def packed_grants(asset: str, grants: int) -> list[PackedGrant]:
    """A stack of purchases, each with its own expiry."""
    return [
        PackedGrant(
            f"grant_{asset}_{number:04d}",
            GRANT_UNITS,
            0,
            0,
            EXPIRE_MS + number * DAY_MS,
            GrantSource.PURCHASE,
            CREATE_MS,
            CREATE_MS,
        )
        for number in range(grants)
    ]


class Wallet:
    """A wallet of some shape: one call per verb."""

    numbers = count()

    def __init__(self, store: HoldStore, wallet_id: str, shape: Shape) -> None:
        self._store = store
        self.shape = shape
        self._ids = {"tenant_id": TENANT, "wallet_id": wallet_id}
        self._subjects = SUBJECTS if any(shape.caps) else []
        self._amounts = [AmountRequest(asset, units) for asset, units in shape.units.items()]
        self._totals = [TotalUsed(asset, units) for asset, units in shape.units.items()]
        self._grants = [
            grant
            for asset, grants in zip(ASSETS, shape.grants, strict=False)
            for grant in packed_grants(asset, grants if shape.all_pay else 1)
        ]
        self.keys = keys.wallet_keys(PARTITION, 1, TENANT, wallet_id)
        self.hold_id = ""

    async def load(self) -> None:
        ticket = await self._store.ticket(**self._ids)
        reply = await self._store.load(
            LoadRequest(
                **self._ids,
                ticket_ms=ticket.time_ms,
                state=WalletState.ACTIVE,
                sequence=0,
                change_number=0,
                assets=[
                    LoadedAsset(asset, 0, 0, packed_grants(asset, grants), [])
                    for asset, grants in zip(ASSETS, self.shape.grants, strict=False)
                ],
                caps=[
                    Cap(subject, asset, window, CAP_LIMIT, CapMode.ENFORCE)
                    for asset, caps in zip(ASSETS, self.shape.caps, strict=False)
                    for subject, window in CAPS[:caps]
                ],
                cap_usage=[],
                changes=[],
            ),
            ticket,
        )
        assert reply.loaded

    def _new_hold(self) -> dict[str, str]:
        self.hold_id = f"hold_{next(self.numbers):032d}"
        content = {"amounts": str(self.shape.units), "subjects": str(self._subjects), "overage_policy": "1"}
        return {**self._ids, "hold_id": self.hold_id, "fingerprint": fingerprint(content)}

    async def authorize(self) -> None:
        request = AuthorizeRequest(
            **self._new_hold(),
            ways=[self._amounts],
            ttl_ms=TTL_MS,
            subjects=self._subjects,
            expiry_action=ExpiryAction.RELEASE,
            labels="",
            open_holds_max=10_000,
            tombstone_ms=TOMBSTONE_MS,
        )
        assert (await self._store.authorize(request)).status == "OK"

    async def commit(self) -> None:
        await self._store.commit(
            CommitRequest(
                **self._ids, hold_id=self.hold_id, amounts=self._totals, final=True, tombstone_ms=TOMBSTONE_MS
            )
        )

    async def release(self) -> None:
        await self._store.release(
            ReleaseRequest(**self._ids, hold_id=self.hold_id, bury=True, forced=False, tombstone_ms=TOMBSTONE_MS)
        )

    async def charge(self) -> None:
        request = ChargeRequest(
            **self._new_hold(), amounts=self._amounts, subjects=self._subjects, labels="", tombstone_ms=TOMBSTONE_MS
        )
        assert (await self._store.charge(request)).status == "OK"

    async def refund(self) -> None:
        await self._store.refund(
            RefundRequest(
                **self._ids,
                hold_id=self.hold_id,
                refund_id="refund",
                digest="",
                amounts=self._totals,
                grants=self._grants,
                recorded=None,
                tombstone_ms=TOMBSTONE_MS,
            )
        )

    async def sweep(self) -> None:
        await self._store.sweep(SweepRequest(**self._ids, tombstone_ms=TOMBSTONE_MS))


@dataclass
class Usage:
    """What the calls of one verb took."""

    calls: int = 0
    usec: float = 0
    aof_bytes: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.calls + other.calls, self.usec + other.usec, self.aof_bytes + other.aof_bytes)


@dataclass
class Bench:
    """The wallets of every shape on one Valkey, and what was measured."""

    client: Redis
    wallets: list[list[Wallet]]
    usec: dict[str, list[list[float]]] = field(default_factory=lambda: defaultdict(list))
    """By verb: a row per round, a column per shape."""
    aof_bytes: dict[str, list[float]] = field(default_factory=dict)

    async def aof_size(self) -> int:
        return int((await self.client.info("persistence"))["aof_current_size"])

    async def run(self, calls: list[Coroutine[None, None, None]]) -> Usage:
        """What these calls take: the same script on different wallets."""
        size = await self.aof_size()
        await self.client.config_resetstat()
        await asyncio.gather(*calls)
        percentiles = (await self.client.info("latencystats"))["latency_percentiles_usec_fcall"]
        return Usage(len(calls), len(calls) * statistics.fmean(percentiles.values()), await self.aof_size() - size)

    async def cycle(self, wallets: list[Wallet]) -> dict[str, Usage]:
        """Put wallets through all verbs; afterwards their funds are as before."""
        usage: dict[str, Usage] = defaultdict(Usage)
        for verb in ("authorize", "release", "authorize", "commit", "refund", "charge", "refund"):
            usage[verb] += await self.run([getattr(wallet, verb)() for wallet in wallets])
        return usage

    async def forget(self, wallets: list[Wallet]) -> None:
        """Trim the outbox as the flusher does, and forget the settled holds."""
        outbox = keys.outbox(PARTITION, 1)
        ((last, _),) = await self.client.xrevrange(outbox, count=1)
        await self.client.xtrim(outbox, minid=last, approximate=False)
        await asyncio.sleep(2 * TOMBSTONE_MS / 1000)
        await asyncio.gather(*(wallet.sweep() for wallet in wallets))
        assert await self.client.exists(*(wallet.keys[4] for wallet in wallets)) == 0, "holds are left"

    async def round(self) -> None:
        usages = []
        for wallets in self.wallets:
            usage: dict[str, Usage] = defaultdict(Usage)
            for number in range(CYCLES):
                for verb, used in (await self.cycle(wallets)).items():
                    usage[verb] += used if number else Usage()
            usages.append(usage)
            await self.forget(wallets)
        for verb in VERBS:
            self.usec[verb].append([usage[verb].usec / usage[verb].calls for usage in usages])
            self.aof_bytes[verb] = [usage[verb].aof_bytes / usage[verb].calls for usage in usages]

    async def memory(self, wallets: list[Wallet]) -> tuple[int, int]:
        """Bytes of an idle wallet and of an open hold."""
        wallet = wallets[0]
        idle = await self.bytes_of(wallet)
        if wallet.shape.all_pay:
            return idle, 0  # it is empty after one hold
        for _ in range(OPEN_HOLDS):
            await wallet.authorize()
        return idle, round((await self.bytes_of(wallet) - idle) / OPEN_HOLDS)

    async def bytes_of(self, wallet: Wallet) -> int:
        return sum([await self.client.memory_usage(key, samples=0) or 0 for key in wallet.keys[3:]])


def table(title: str, verbs: tuple[str, ...], cells: dict[str, list[str]]) -> None:
    """A row per shape, a column per verb."""
    width = max(len(shape.name) for shape in SHAPES)
    sys.stdout.write(f"\n{title}\n{'':{width}}" + "".join(f"{verb:>15}" for verb in verbs) + "\n")
    for number, shape in enumerate(SHAPES):
        row = "".join(f"{cells[verb][number]:>15}" for verb in verbs)
        sys.stdout.write(f"{shape.name:{width}}{row}\n")


def middle(values: list[float], digits: int) -> str:
    """The median, and half the distance between the quartiles."""
    low, median, high = statistics.quantiles(values, n=4)
    return f"{median:.{digits}f} ±{(high - low) / 2:.{digits}f}"


def report(bench: Bench, memory: list[tuple[int, int]]) -> None:
    """Print the tables."""
    columns = {verb: list(zip(*rounds, strict=True)) for verb, rounds in bench.usec.items()}
    ratios = {
        verb: [[value / first for value, first in zip(column, shapes[0], strict=True)] for column in shapes]
        for verb, shapes in columns.items()
    }
    table(
        "server time of a call, microseconds",
        VERBS,
        {verb: [middle(list(column), 1) for column in shapes] for verb, shapes in columns.items()},
    )
    table(
        "the same as a multiple of the first row",
        VERBS,
        {verb: [middle(ratio, 2) for ratio in shapes] for verb, shapes in ratios.items()},
    )
    table(
        "bytes that a call adds to the append-only file",
        VERBS,
        {verb: [f"{value:.0f}" for value in shapes] for verb, shapes in bench.aof_bytes.items()},
    )
    table(
        "bytes of memory",
        ("idle wallet", "open hold"),
        {
            "idle wallet": [str(idle) for idle, _ in memory],
            "open hold": [str(hold) if hold else "-" for _, hold in memory],
        },
    )


async def measure(url: str, options: argparse.Namespace) -> None:
    """Load the wallets, then round after round."""
    async with (
        open_client(url, timeout_ms=10_000) as client,
        open_connection(url, timeout_ms=10_000, in_flight_max=1_000) as connection,
    ):
        await client.hset(keys.meta(PARTITION), "epoch", "1")
        library = build_library(
            {part: (options.lua / part).read_text(encoding="utf-8") for part in PARTS} if options.lua else None
        )
        await load_library(client, library)
        store = HoldStore(connection, library, [1])
        bench = Bench(
            client,
            [
                [Wallet(store, f"wallet_{number:02d}_{n:04d}", shape) for n in range(options.wallets)]
                for number, shape in enumerate(SHAPES)
            ],
        )
        for wallets in bench.wallets:
            for wallet in wallets:
                await wallet.load()
        for _ in range(options.rounds):
            await bench.round()
        report(bench, [await bench.memory(wallets) for wallets in bench.wallets])


def main() -> None:
    """Parse the command line, start a Valkey, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--wallets", type=int, default=20, help="of each shape")
    parser.add_argument("--lua", type=Path, help="measure the scripts of this directory instead of the package's")
    parser.add_argument("--realtime", action="store_true", help="no other process interrupts the store (needs root)")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="drawdown-bench-") as directory,
        ValkeyProcess(Path(directory) / "valkey", extra=SETTINGS) as valkey,
    ):
        if options.realtime:
            os.sched_setscheduler(valkey.pid, os.SCHED_FIFO, os.sched_param(1))
        uvloop.run(measure(valkey.url, options))


if __name__ == "__main__":
    main()
