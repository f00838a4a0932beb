"""The capacity model: what a call costs each component, and what follows for a rate of authorizations.

Costs are medians of one run of the table of speed. Nothing else is measured here: everything that is assumed is in
``Assumptions``, with a default that a reader replaces.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.table.report import VERSION

ROUTES: Final = {
    "unary": ("authorize c32", "commit c32"),
    "Session": ("session c32", "commit by session c32"),
}
"""How calls travel: the rows of an Authorize and of a Commit."""
BATCH: Final = "batch of 32 c1"
RAW: Final = "fcall c32"
EVERYSEC: Final = "session, everysec c32"
FLUSH: Final = "flush, entries"
FLUSH_LINES: Final = 2
"""Entries of an event in that row."""
MEMORY: Final = "memory, assets 1"
MEGA, GIGA = 1e6, 1e9
GIB: Final = 2**30
HOUR_S, DAY_S = 3_600, 86_400
MORE_POSTGRES: Final = "another installation for some of the tenants, or a Postgres that is spread by tenant"
Samples = Sequence[Mapping[str, Any]]


class CapacityError(Exception):
    """A run that nothing can be computed from; the message says why."""


@dataclass(frozen=True)
class Route:
    """Microseconds of a server and bytes on the network, for one Authorize and one Commit."""

    authorize_us: float
    commit_us: float
    network_bytes: float
    """Of both, in both directions."""

    @property
    def us(self) -> float:
        """Of both."""
        return self.authorize_us + self.commit_us


@dataclass(frozen=True)
class Costs:
    """Of one Authorize and one Commit of the simplest wallet, unless it says otherwise."""

    routes: Mapping[str, Route]
    batch_us: float
    """Of a server, for an Authorize in a Batch."""
    store_us: float
    """Of Valkey, with ``appendfsync always``."""
    store_everysec_us: float
    """Of Valkey for an Authorize alone, with ``everysec``."""
    store_always_us: float
    """The same with ``always``."""
    store_bytes: float
    """Between the server and Valkey, in both directions; a Commit is taken for an Authorize."""
    disk_waits: float
    """At most: turns of Valkey's event loop."""
    aof_bytes: float
    flusher_us: float
    """Of a flusher per event, from a backlog: its batches are full, as they are at high rates."""
    postgres_us: float
    """Per event."""
    wal_bytes: float
    """Per event."""
    flushed_per_s: float
    """Events that one flusher recorded per second."""
    wallet_bytes: float
    hold_bytes: float

    @classmethod
    def of(cls, run: Mapping[str, Any]) -> Costs:
        """From what ``speed.py`` wrote.

        Raises:
            CapacityError: It is of another version, or some rows are missing.
        """
        if run.get("version") != VERSION:
            raise CapacityError(f"the run is of version {run.get('version')}, not {VERSION}: measure again")
        rows: Mapping[str, Samples] = run["rows"]
        needed = {row for rows_of in ROUTES.values() for row in rows_of} | {BATCH, RAW, EVERYSEC, FLUSH, MEMORY}
        if missing := sorted(needed - rows.keys()):
            raise CapacityError(f"the run lacks {', '.join(missing)}: measure all rows")
        session_authorize, session_commit = ROUTES["Session"]

        def used(row: str, counter: str, calls_per: float = 1) -> float:
            """Per call."""
            return _median(rows[row], lambda s: s["used"][counter] / s["result"]["calls"] * calls_per)

        def both(counter: str) -> float:
            return used(session_authorize, counter) + used(session_commit, counter)

        return cls(
            routes={
                name: Route(
                    used(authorize, "server_cpu_s") * MEGA,
                    used(commit, "server_cpu_s") * MEGA,
                    _network(rows[authorize]) + _network(rows[commit]),
                )
                for name, (authorize, commit) in ROUTES.items()
            },
            batch_us=used(BATCH, "server_cpu_s") * MEGA,
            store_us=both("store_cpu_s") * MEGA,
            store_everysec_us=used(EVERYSEC, "store_cpu_s") * MEGA,
            store_always_us=used(session_authorize, "store_cpu_s") * MEGA,
            store_bytes=2 * _network(rows[RAW]),
            disk_waits=both("turns"),
            aof_bytes=both("aof_bytes"),
            flusher_us=used(FLUSH, "flusher_cpu_s", FLUSH_LINES) * MEGA,
            postgres_us=used(FLUSH, "postgres_cpu_s", FLUSH_LINES) * MEGA,
            wal_bytes=used(FLUSH, "wal_bytes", FLUSH_LINES),
            flushed_per_s=_median(rows[FLUSH], lambda s: s["result"]["calls"] / FLUSH_LINES / s["result"]["seconds"]),
            wallet_bytes=_median(rows[MEMORY], lambda s: s["used"]["wallet_bytes"]),
            hold_bytes=_median(rows[MEMORY], lambda s: s["used"]["hold_bytes"]),
        )


@dataclass(frozen=True)
class Assumptions:
    """What is not measured. Prices are in US dollars, and no offer of anybody's: replace them."""

    busy: float = 0.6
    """Share of a core that is used when all is well; the rest is for peaks and failures."""
    wallets: int = 1_000_000
    """In Valkey at the same time."""
    hold_s: float = 30.0
    """Between Authorize and Commit."""
    tombstone_s: float = 900.0
    """For so long a settled hold is remembered; it is taken to be as large as an open one, which is too much."""
    postgres_cores: int = 16
    """Of the largest Postgres that is wanted."""
    postgres_wal_mb: float = 200.0
    """Per second, that one Postgres keeps writing to its disk."""
    core_hour: float = 0.04
    gib_hour: float = 0.005
    """Of memory."""
    disk_gb_month: float = 0.10
    network_gb: float = 0.01
    """Between zones."""
    wal_kept_days: float = 7.0
    """Log of Postgres, and as much again for its tables."""


@dataclass(frozen=True)
class Limit:
    """How far one of a component goes."""

    name: str
    per_s: float
    """Authorizations, each with its Commit."""
    then: str


def limits(costs: Costs, assumed: Assumptions) -> list[Limit]:
    """Of one worker, one primary, one flusher and one Postgres, the first to be reached first."""
    core = assumed.busy * MEGA
    found = [
        *(
            Limit(f"one worker, {name}", core / route.us, "more workers: they keep no state")
            for name, route in costs.routes.items()
        ),
        Limit("one Valkey primary", core / costs.store_us, "more primaries: a cluster spreads the partitions"),
        Limit("one flusher", assumed.busy * costs.flushed_per_s, "more flushers: they share the partitions"),
        Limit(
            f"one Postgres of {assumed.postgres_cores} cores",
            assumed.postgres_cores * core / costs.postgres_us,
            MORE_POSTGRES,
        ),
        Limit("one Postgres, its WAL", assumed.postgres_wal_mb * MEGA / costs.wal_bytes, MORE_POSTGRES),
    ]
    return sorted(found, key=lambda limit: limit.per_s)


@dataclass(frozen=True)
class Plan:
    """What a rate needs. Cores are of the measured machine's kind."""

    per_s: float
    """Authorizations, each with its Commit."""
    workers: Mapping[str, float]
    """By route."""
    primaries: float
    flushers: float
    postgres_cores: float
    aof_mb_per_s: float
    wal_mb_per_s: float
    disk_waits_per_s: float
    network_gbit_per_s: float
    """Clients to servers, by Session, and servers to Valkey."""
    memory_gib: float
    dollars_per_hour: float
    """By Session."""

    @property
    def dollars_per_million(self) -> float:
        """Of authorizations."""
        return self.dollars_per_hour / (self.per_s * HOUR_S) * MEGA


def plan(costs: Costs, assumed: Assumptions, per_s: float) -> Plan:
    """For a rate."""

    def cores(us: float) -> float:
        return per_s * us / MEGA / assumed.busy

    workers = {name: cores(route.us) for name, route in costs.routes.items()}
    primaries, flushers = cores(costs.store_us), per_s / costs.flushed_per_s / assumed.busy
    postgres_cores = cores(costs.postgres_us)
    network_bytes = costs.routes["Session"].network_bytes + costs.store_bytes
    holds = per_s * (assumed.hold_s + assumed.tombstone_s)
    memory_gib = (assumed.wallets * costs.wallet_bytes + holds * costs.hold_bytes) / GIB
    wal_gb_kept = per_s * costs.wal_bytes * DAY_S * assumed.wal_kept_days / GIGA
    # A flusher waits for Postgres most of the time, and needs no core of its own.
    all_cores = workers["Session"] + primaries + cores(costs.flusher_us) + postgres_cores
    return Plan(
        per_s=per_s,
        workers=workers,
        primaries=primaries,
        flushers=flushers,
        postgres_cores=postgres_cores,
        aof_mb_per_s=per_s * costs.aof_bytes / MEGA,
        wal_mb_per_s=per_s * costs.wal_bytes / MEGA,
        disk_waits_per_s=per_s * costs.disk_waits,
        network_gbit_per_s=per_s * network_bytes * 8 / GIGA,
        memory_gib=memory_gib,
        dollars_per_hour=(
            all_cores * assumed.core_hour
            + memory_gib * assumed.gib_hour
            + 2 * wal_gb_kept * assumed.disk_gb_month * 12 / (365 * 24)
            + per_s * HOUR_S * network_bytes / GIGA * assumed.network_gb
        ),
    )


def _median(samples: Samples, value: Callable[[Mapping[str, Any]], float]) -> float:
    return statistics.median(value(sample) for sample in samples)


def _network(samples: Samples) -> float:
    """Bytes of a call, in both directions."""
    return _median(samples, lambda s: (s["result"]["bytes_in"] + s["result"]["bytes_out"]) / s["result"]["calls"])
