"""The rows of the table: what each one calls, and whose time and bytes that takes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from bench.load.generator import Calls, Result, Step
from bench.table.counters import process
from bench.table.messages import RIVAL, authorize_step, balance_step, commit_step, fastapi_request
from bench.table.stacks import HOT, RIVAL_WALLETS, SHAPES, SIMPLEST
from bench.wallet_memory import measure as measure_memory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bench.load.generator import Generator
    from bench.table.counters import Meter
    from bench.table.sides import Shape, Side, Store
    from bench.table.stacks import Stack

CONCURRENCIES: Final = (1, 8, 32, 128)
USUAL: Final = 32
BATCH: Final = 32
COMMIT_RATE: Final = 5_000
"""Of the row that looks for how long an event waits for the ledger."""
LOOK_INTERVAL_S: Final = 0.1
"""Between two looks at the oldest event; one keeps Valkey for about 2 ms."""
FLUSH_EVENTS: Final = 20_000
MEMORY_WALLETS: Final = 4_000


@dataclass(frozen=True)
class Found:
    """What a run found out: calls, or other numbers."""

    result: Result | None
    figures: Mapping[str, float] = field(default_factory=dict)


Run = Callable[[Calls], Awaitable[Found]]


@dataclass(frozen=True)
class Row:
    """One row.

    Args:
        name: As it is printed, and as goals and the capacity model know it.
        run: Makes the calls, or measures something else.
        meters: What is read before and after it.
        concurrency: Calls at once; of a Batch, messages at once.
        wallets: That the calls are for.
        times: As many calls as the usual row, times this.
        batch: Calls of one message.
        rate: Calls per second at most; 0: no limit.
        before: Makes calls with the same numbers first, which are not measured.
        settled: Waits until everything that the calls began is done.
        everysec: The store that is to wait for its disk once a second only.
    """

    name: str
    run: Run
    meters: tuple[Meter, ...] = ()
    concurrency: int = USUAL
    wallets: int = SIMPLEST.wallets
    times: float = 1.0
    batch: int = 1
    rate: int = 0
    before: Run | None = None
    settled: Callable[[], Awaitable[None]] | None = None
    everysec: Store | None = None


def all_rows(stack: Stack, generator: Generator) -> list[Row]:
    """In the order of a round: what is compared comes one after the other."""
    rows = Rows(stack, generator)
    return [*rows.one_by_one(), *rows.shapes(), *rows.settling(), *rows.everysec(), *rows.rivals(), *rows.ledger()]


@asynccontextmanager
async def disk_once_a_second(store: Store | None) -> AsyncIterator[None]:
    """``appendfsync everysec`` for a while."""
    if store is not None:
        await store.client.config_set("appendfsync", "everysec")
    try:
        yield
    finally:
        if store is not None:
            await store.client.config_set("appendfsync", "always")


class Rows:
    """Makes rows.

    Args:
        stack: What is compared.
        generator: Sends the calls.
    """

    def __init__(self, stack: Stack, generator: Generator) -> None:
        self._stack = stack
        self._generator = generator
        ours = stack.ours
        self._meters = (process("server", ours.server.pid), stack.store.meter)
        self._ledger_meters = (*self._meters, process("flusher", ours.flusher.pid), stack.postgres)

    # --- kinds of runs -------------------------------------------------------------------------------------------

    def _grpc(self, side: Side, *steps: Step, mode: str = "unary") -> Run:
        async def run(calls: Calls) -> Found:
            return Found(await self._generator.grpc(side.port, steps, calls, mode=mode, key=side.key))

        return run

    def _raw(self) -> Run:
        """The FCALL alone, over one connection."""
        port, command = self._stack.raw_store.port, self._stack.raw_command

        async def run(calls: Calls) -> Found:
            return Found(await self._generator.pipeline(port, command, calls, protocol="resp", connections=1))

        return run

    def _fastapi(self) -> Run:
        """As many connections as calls."""
        port = self._stack.fastapi.port

        async def run(calls: Calls) -> Found:
            request = fastapi_request()
            return Found(
                await self._generator.pipeline(port, request, calls, protocol="http1", connections=calls.concurrency)
            )

        return run

    def _ours(self, name: str, shape: Shape, concurrency: int = USUAL, mode: str = "unary", times: float = 1) -> Row:
        """Authorizes."""
        run = self._grpc(self._stack.ours.server, authorize_step(shape, mode), mode=mode)
        return Row(name, run, self._meters, concurrency, shape.wallets, times)

    # --- rows ----------------------------------------------------------------------------------------------------

    def one_by_one(self) -> list[Row]:
        """Ours beside the bare servers and the store alone."""
        echo, ours = self._stack.echo, self._stack.ours.server
        rows = []
        for n in CONCURRENCIES:
            for name, mode, times in (("echo", "unary", 1), ("stream echo", "session", 2)):
                run = self._grpc(echo, authorize_step(RIVAL, mode), mode=mode)
                meters = (process("server", echo.pid),)
                rows.append(Row(f"{name} c{n}", run, meters, n, RIVAL_WALLETS, times))
            rows.append(self._ours(f"authorize c{n}", SIMPLEST, n))
            rows.append(self._ours(f"session c{n}", SIMPLEST, n, "session", 2))
        raw_meters = (self._stack.raw_store.meter,)
        rows += [Row(f"fcall c{n}", self._raw(), raw_meters, n, times=2) for n in (1, USUAL, 4 * BATCH)]
        batch = self._grpc(ours, authorize_step(SIMPLEST, "batch"), mode=f"batch:{BATCH}")
        rows.append(Row("batch of 32 c1", batch, self._meters, 1, times=2, batch=BATCH))
        rows.append(Row("batch of 32 c4", batch, self._meters, 4, times=2, batch=BATCH))
        return rows

    def shapes(self) -> list[Row]:
        """Other wallets."""
        return [self._ours(f"authorize, {shape.name} c32", shape) for shape in SHAPES if shape not in (SIMPLEST, HOT)]

    def settling(self) -> list[Row]:
        """Other verbs. A Commit's row waits for the ledger, so that its cost is all of it."""
        ours = self._stack.ours
        hold = self._grpc(ours.server, authorize_step(SIMPLEST, "session"), mode="session")
        rows = [
            Row(
                f"{'commit' if mode == 'unary' else 'commit by session'} c32",
                self._grpc(ours.server, commit_step(SIMPLEST, mode), mode=mode),
                self._ledger_meters,
                before=hold,
                settled=ours.recorded,
            )
            for mode in ("unary", "session")
        ]
        return [*rows, Row("get balance c32", self._grpc(ours.server, balance_step(SIMPLEST)), self._meters)]

    def everysec(self) -> list[Row]:
        """What waiting for the disk costs."""
        store, raw = self._stack.store, self._stack.raw_store
        server = self._stack.ours.server
        ways = (
            ("authorize", "unary", USUAL, 1),
            ("session", "session", USUAL, 1),
            ("batch of 32", "batch:32", 4, BATCH),
        )
        rows = [
            Row(
                f"{name}, everysec c{concurrency}",
                self._grpc(server, authorize_step(SIMPLEST, mode), mode=mode),
                self._meters,
                concurrency,
                times=2,
                batch=batch,
                everysec=store,
            )
            for name, mode, concurrency, batch in ways
        ]
        raw_row = Row("fcall, everysec c128", self._raw(), (raw.meter,), 4 * BATCH, times=2, everysec=raw)
        return [*rows, raw_row]

    def rivals(self) -> list[Row]:
        """What users build themselves, and ours in the same shape."""
        stack, lock = self._stack, self._stack.postgres_lock
        lock_meters = (process("server", lock.pid), stack.postgres)
        rows = [
            Row("postgres row lock c32", self._grpc(lock, authorize_step(RIVAL)), lock_meters, wallets=RIVAL_WALLETS)
        ]
        for name, shape, wallets in (("pairs", SIMPLEST, RIVAL_WALLETS), ("pairs, one hot wallet", HOT, 1)):
            theirs = self._grpc(lock, authorize_step(RIVAL), commit_step(RIVAL))
            steps = (authorize_step(shape, "session"), commit_step(shape, "session"))
            ours = self._grpc(stack.ours.server, *steps, mode="session")
            rows += [
                Row(f"postgres {name} c32", theirs, lock_meters, wallets=wallets, times=0.5),
                Row(
                    f"session {name} c32",
                    ours,
                    self._ledger_meters,
                    wallets=shape.wallets,
                    settled=stack.ours.recorded,
                ),
            ]
        return [
            *rows,
            Row(
                "fastapi c32",
                self._fastapi(),
                (process("server", stack.fastapi.pid), stack.fastapi_store.meter),
                wallets=RIVAL_WALLETS,
            ),
        ]

    def ledger(self) -> list[Row]:
        """The flusher behind, and memory."""
        ours = self._stack.ours
        hold = self._grpc(ours.server, authorize_step(SIMPLEST, "session"), mode="session")
        lag = Row(
            "commits at 5,000/s",
            self._watched(self._grpc(ours.server, commit_step(SIMPLEST, "session"), mode="session")),
            self._ledger_meters,
            concurrency=128,
            rate=COMMIT_RATE,
            times=2,
            before=hold,
            settled=ours.recorded,
        )
        drain = Row("flush, entries", self._drain, (self._stack.postgres,))
        return [lag, drain, *(Row(f"memory, assets {assets}", self._memory(assets)) for assets in (1, 2))]

    def _watched(self, run: Run) -> Run:
        """A run during which the oldest event that is not recorded is looked for."""
        backlog = self._stack.ours.backlog

        async def look(ages: list[float]) -> None:
            while True:
                await backlog.run_once()
                ages.append(backlog.age_s * 1e3)
                await asyncio.sleep(LOOK_INTERVAL_S)

        async def watched(calls: Calls) -> Found:
            ages: list[float] = []
            looking = asyncio.create_task(look(ages))
            try:
                found = await run(calls)
            finally:
                looking.cancel()
                with suppress(asyncio.CancelledError):
                    await looking
            return Found(found.result, {"oldest_ms": max(ages)})

        return watched

    async def _drain(self, _: Calls) -> Found:
        """Entries from a backlog into Postgres."""
        outboxes = self._stack.outboxes
        drain = await outboxes.drain(FLUSH_EVENTS)
        entries = drain.events * len(outboxes.assets)
        return Found(Result.of_calls(entries, drain.batches, drain.seconds), {"flusher_cpu_s": drain.cpu_s})

    def _memory(self, assets: int) -> Run:
        """Bytes."""

        async def run(_: Calls) -> Found:
            memory = await measure_memory(self._stack.memory_url, MEMORY_WALLETS, assets, grants=1)
            return Found(None, {"wallet_bytes": memory.per_wallet, "hold_bytes": memory.per_hold})

        return run
