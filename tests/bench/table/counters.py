"""What a run takes of the processes and the stores: counters that only grow, read before and after."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncpg
    from redis.asyncio import Redis

CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")
Meter = Callable[[], Awaitable[dict[str, float]]]
"""Reads some counters, by name. Names of processor time in seconds end with ``_cpu_s``."""


def cpu_s(pid: int) -> float:
    """Processor time of a process and its children, also of those that have ended."""
    children: dict[int, list[int]] = {}
    times: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            values = path.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        of = int(path.parent.name)
        children.setdefault(int(values[1]), []).append(of)
        times[of] = sum(map(int, values[11:15])) / CLOCK_TICKS
    family, total = [pid], 0.0
    while family:
        member = family.pop()
        total += times.get(member, 0.0)
        family += children.get(member, [])
    return total


def process(name: str, pid: int) -> Meter:
    """Processor time of a process, as ``<name>_cpu_s``."""

    async def read() -> dict[str, float]:
        return {f"{name}_cpu_s": cpu_s(pid)}

    return read


def valkey(client: Redis, pid: int) -> Meter:
    """A Valkey's.

    ``aof_bytes``: what it appended. ``turns``: of its event loop; each writes its replies once, and waits for the disk
    once before, if there was something to append and ``appendfsync always``.
    """

    async def read() -> dict[str, float]:
        info = await client.info("everything")
        return {
            "store_cpu_s": cpu_s(pid),
            "aof_bytes": float(info["aof_current_size"]),
            "turns": float(info["eventloop_cycles"]),
        }

    return read


def postgres(connection: asyncpg.Connection, pid: int) -> Meter:
    """A Postgres': ``wal_bytes``, what it wrote to its log; the connection counts itself."""

    async def read() -> dict[str, float]:
        position = await connection.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'")
        return {"postgres_cpu_s": cpu_s(pid), "wal_bytes": float(position)}

    return read


async def read_all(meters: tuple[Meter, ...]) -> dict[str, float]:
    """All counters of some meters."""
    counters: dict[str, float] = {}
    for meter in meters:
        counters |= await meter()
    return counters


def used(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """By how much they grew."""
    return {name: after[name] - value for name, value in before.items()}
