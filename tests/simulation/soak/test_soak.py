"""Real processes, real faults, everything drawn from one seed: ``make soak SECONDS=600 SEED=7``.

Two servers and two flushers on an embedded Valkey (``appendfsync always``) and Postgres, each behind a line with
faults; sixteen gateways, a reader and an operator on forty wallets. Nothing that was acknowledged may be lost, doubled
or changed by any of it (``audit.py``). Then Valkey loses state for real: it is emptied, and it goes back to a copy;
what the ledger has recorded must be there, and holds that were open are committed by their tokens.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sys
import time
from typing import TYPE_CHECKING, Final

import pytest
from redis.asyncio import Redis

from simulation.soak.audit import DRAIN_S, differences, leaked_holds
from simulation.soak.books import Books
from simulation.soak.faults import LANES, inject, is_set_within, plan_faults
from simulation.soak.stack import WATCH_S, Stack
from simulation.soak.traffic import FORGOTTEN_TTL_S, Gateway, Operator, Reader

if TYPE_CHECKING:
    from pathlib import Path

    from simulation.soak.traffic import Caller

SECONDS: Final = float(os.environ.get("SOAK_SECONDS") or 600)
SEED: Final = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(1_000_000))
SHORT_S: Final = 6.0
FAULT_PAUSE_S: Final = 6.0
"""Longest rest between two faults of a kind, so that there are minutes in which nothing is in trouble as well."""
SHORT_FAULT_PAUSE_S: Final = 1.0
GATEWAYS: Final = 16
WALLETS: Final = 40
SHOWN: Final = 40
"""Differences printed."""
OPEN_HOLDS: Final = 20
"""Left open while Valkey loses its state."""


class Soak:
    """One run."""

    def __init__(self, stack: Stack, seed: int) -> None:
        self.stack = stack
        self.books = stack.books
        self.seed = seed
        self.gateways = [
            Gateway(f"g{n}", stack.clients, self.books, self._dice(f"gateway {n}")) for n in range(GATEWAYS)
        ]
        self.operator = Operator(stack.clients, self.books, self._dice("operator"))
        self.reader = Reader(stack.clients, self.books, self._dice("reader"))

    def _dice(self, who: str) -> random.Random:
        return random.Random(f"{self.seed} {who}")  # noqa: S311  # no secret

    async def traffic(self, seconds: float, *, fault_pause_s: float | None = None) -> None:
        """Everybody at work; at the end nothing is broken and nothing is in flight."""
        stop_faults, stop = asyncio.Event(), asyncio.Event()
        callers: list[Caller] = [*self.gateways, self.operator, self.reader]
        async with asyncio.TaskGroup() as group:
            lanes = []
            if fault_pause_s is not None:
                for lane in LANES:
                    faults = plan_faults(self.seed, lane, seconds, fault_pause_s)
                    lanes.append(group.create_task(inject(self.stack, faults, stop_faults)))
            for caller in callers:
                group.create_task(caller.run(stop))
            await is_set_within(stop, seconds)
            stop_faults.set()
            await asyncio.gather(*lanes)
            await self.stack.ready()
            stop.set()

    async def check(self) -> None:
        """Quiesce, and hold the books against the ledger."""
        await self.stack.ready()
        found = await differences(self.stack, FORGOTTEN_TTL_S)
        found += self.stack.faults_of_ours()
        assert not found, "\n".join(found[:SHOWN])

    async def be_emptied(self, seconds: float) -> None:
        """Valkey is emptied, with open holds and all else recorded."""
        self.books.counts["fault emptied"] += 1
        await self._open_holds()
        await self.check_recorded()
        async with Redis.from_url(self.stack.valkey.url) as redis:
            await redis.flushall()
        await self._after_loss(seconds)

    async def go_back(self, seconds: float) -> None:
        """Valkey goes back to a copy, with open holds and all else recorded."""
        self.books.counts["fault gone back"] += 1
        valkey, data = self.stack.valkey, self.stack.valkey.directory / "data"
        await asyncio.to_thread(valkey.stop)
        await asyncio.to_thread(shutil.copytree, data, data.with_name("copy"))
        await asyncio.to_thread(valkey.start)
        await self.traffic(seconds)
        await self._open_holds()
        await self.check_recorded()
        await asyncio.to_thread(valkey.kill)
        shutil.rmtree(data)
        data.with_name("copy").rename(data)
        await asyncio.to_thread(valkey.start)
        await self._after_loss(seconds)

    async def check_recorded(self) -> None:
        """Wait until the outboxes hold nothing that Postgres lacks: losing Valkey then loses no commit."""
        async with Redis.from_url(self.stack.valkey.url) as redis, asyncio.timeout(DRAIN_S):
            while await self.stack.unrecorded(redis):  # noqa: ASYNC110 - it lives in another process
                await asyncio.sleep(WATCH_S)

    async def _open_holds(self) -> None:
        """The only ones that are open: those that nobody settles have come to their end first."""
        assert not await leaked_holds(self.stack, FORGOTTEN_TTL_S)
        for number in range(OPEN_HOLDS):
            await self.gateways[number % GATEWAYS].leave_open()

    async def _after_loss(self, seconds: float) -> None:
        for gateway in self.gateways:
            await gateway.commit_open()
        await self.traffic(seconds)
        await self.check()

    def summary(self) -> dict[str, object]:
        """Counts, for programs."""
        counts = dict(sorted(self.books.counts.items()))
        return {
            "seed": self.seed,
            "wallets": len(self.books.wallets),
            "operations": sum(n for name, n in counts.items() if name[0].isupper()),
            "holds": len(self.books.holds),
            "acknowledged_commits": sum(bool(hold.sequences) for hold in self.books.holds.values()),
            "grants": len(self.books.grants),
            "faults": sum(n for name, n in counts.items() if name.startswith("fault ")),
            "restarts": self.stack.starts,
            "retries": counts.get("retries", 0),
            "counts": counts,
        }


def say(text: str) -> None:
    """To the terminal, also from a worker of a parallel run."""
    print(text, file=sys.__stderr__, flush=True)  # what a soak is for


async def run_soak(directory: Path, seed: int, seconds: float, loss_s: float, *, goes_back: bool) -> None:
    """The whole run."""
    say(f"\nsoak: SEED={seed} SECONDS={seconds:g}")
    began = time.monotonic()
    async with Stack(directory, Books()) as stack:
        soak = Soak(stack, seed)
        try:
            await stack.ready()
            await soak.operator.prepare(WALLETS)
            await soak.traffic(seconds, fault_pause_s=FAULT_PAUSE_S if goes_back else SHORT_FAULT_PAUSE_S)
            await soak.check()
            await soak.be_emptied(loss_s)
            if goes_back:
                await soak.go_back(loss_s)
        except BaseException:
            say(f"soak: FAILED, SEED={seed} SECONDS={seconds:g}: {json.dumps(soak.summary())}")
            say("\n".join(stack.faults_of_ours()[:SHOWN]))
            raise
        summary = soak.summary() | {"recoveries": await stack.recoveries()}
    say(f"soak: {json.dumps(summary | {'elapsed_s': round(time.monotonic() - began)})}")
    say("soak: conserved")


@pytest.mark.soak
@pytest.mark.timeout(4 * SECONDS + 900)
async def test_nothing_acknowledged_is_lost_or_doubled_by_any_fault(directory: Path) -> None:
    await run_soak(directory, SEED, SECONDS, loss_s=min(30.0, SECONDS / 4), goes_back=True)


@pytest.mark.timeout(600)
async def test_a_short_soak(directory: Path) -> None:
    await run_soak(directory, SEED, SHORT_S, loss_s=1.0, goes_back=False)
