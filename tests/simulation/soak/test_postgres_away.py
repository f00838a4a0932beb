"""Postgres is away for a minute under load: spending goes on, the backlog drains afterwards, and both stores agree."""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import TYPE_CHECKING, Final

import pytest
from redis.asyncio import Redis

from simulation.soak.audit import differences
from simulation.soak.books import Books
from simulation.soak.faults import is_set_within
from simulation.soak.stack import Stack
from simulation.soak.traffic import FORGOTTEN_TTL_S, Gateway, Operator

if TYPE_CHECKING:
    from pathlib import Path

WALLETS: Final = 20
GATEWAYS: Final = 16
DRAIN_S: Final = 120.0
SERVED: Final = ("Authorize", "Commit", "Commit progress", "Charge", "Release", "Extend")


@pytest.mark.parametrize(
    "away_s",
    [
        pytest.param(3.0, id="short", marks=pytest.mark.timeout(600)),
        pytest.param(60.0, id="long", marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
    ],
)
async def test_spending_goes_on_without_postgres_and_is_recorded_afterwards(directory: Path, away_s: float) -> None:
    seed = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(1_000_000))
    print(f"{seed=}")  # noqa: T201 - to run it again
    async with Stack(directory, Books()) as stack, Redis.from_url(stack.valkey.url) as redis:
        books = stack.books
        await stack.ready()
        await Operator(stack.clients, books, random.Random(f"{seed} operator")).prepare(WALLETS)  # noqa: S311 - no secret
        gateways = [
            Gateway(f"g{number}", stack.clients, books, random.Random(f"{seed} {number}"))  # noqa: S311 - no secret
            for number in range(GATEWAYS)
        ]
        await asyncio.to_thread(stack.postgres.stop)
        before, stop = sum(books.counts[name] for name in SERVED), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for gateway in gateways:
                gateway.needs_ledger = False
                group.create_task(gateway.run(stop))
            await is_set_within(stop, away_s)
            served, retries = sum(books.counts[name] for name in SERVED) - before, books.counts["retries"]
            backlog = await redis_backlog(redis)
            await asyncio.to_thread(stack.postgres.start)
            stop.set()
        began = time.monotonic()
        async with asyncio.timeout(DRAIN_S):
            while await stack.unrecorded(redis):  # noqa: ASYNC110 - it lives in another process
                await asyncio.sleep(0.05)
        drained_s = time.monotonic() - began
        print(  # noqa: T201 - what the run is for
            f"postgres away: {away_s:g} s, {served} calls served, {retries} sent again, {backlog} events waiting, "
            f"drained in {drained_s:.1f} s"
        )
        assert retries == 0, "a call failed because Postgres was away"
        assert served > 0
        assert backlog > 0
        found = await differences(stack, FORGOTTEN_TTL_S) + stack.faults_of_ours()
        assert not found, "\n".join(found)


async def redis_backlog(redis: Redis) -> int:
    """Events in all outboxes."""
    return sum([await redis.xlen(key) for key in await redis.keys("*:outbox")])
