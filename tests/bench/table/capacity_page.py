"""The capacity model as tables of Markdown, and where a page keeps them."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from bench.table.capacity import Assumptions, CapacityError, Costs, limits, plan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.table.capacity import Plan

RATES: Final = (10_000, 100_000, 1_000_000)
BEGIN, END = "<!-- computed: begin -->", "<!-- computed: end -->"


def tables(run: Mapping[str, Any], assumed: Assumptions, rates: Sequence[float] = RATES) -> str:
    """Everything that is computed of a run.

    Raises:
        CapacityError: See ``Costs.of``.
    """
    costs = Costs.of(run)
    machine = run["machine"]
    rounds = len(next(iter(run["rows"].values())))
    measured = (
        f"Measured at {run['time']} on {machine['processor']}, {machine['cores']} cores, Python {machine['python']}"
    )
    measured += f", in {rounds} round{'s' * (rounds > 1)}; load generators, servers and stores shared these cores."
    options = {field.name.replace("_", "-"): f"{getattr(assumed, field.name):,}" for field in fields(assumed)}
    parts = (
        measured,
        "### What a call costs",
        _costs(costs),
        f"### How far one of each goes, {assumed.busy:.0%} busy",
        _table(
            ("one of", "authorizations/s", "then"),
            [(limit.name, _count(limit.per_s), limit.then) for limit in limits(costs, assumed)],
        ),
        "### What a rate needs",
        _plans([plan(costs, assumed, rate) for rate in rates]),
        "### What is assumed",
        _table(("option", "value"), [(f"`--{name}`", value) for name, value in options.items()]),
    )
    return "\n\n".join(parts)


def replaced(page: str, text: str) -> str:
    """A page with other tables between its marks.

    Raises:
        CapacityError: It has no marks.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise CapacityError(f"the page has no {BEGIN} and {END}")
    return f"{head}{BEGIN}\n\n{text}\n\n{END}{tail}"


def _costs(costs: Costs) -> str:
    unary, session = costs.routes["unary"], costs.routes["Session"]
    return _table(
        ("component", "Authorize and Commit", "unit"),
        [
            ("server, unary", f"{unary.authorize_us:.0f} + {unary.commit_us:.0f}", "us of a core"),
            ("server, Session", f"{session.authorize_us:.0f} + {session.commit_us:.0f}", "us of a core"),
            ("server, Batch of 32", f"{costs.batch_us:.0f} (Authorize alone)", "us of a core"),
            ("Valkey, always", f"{costs.store_us:.0f}", "us of its one core"),
            (
                "Valkey, everysec beside always",
                f"{costs.store_everysec_us:.0f} beside {costs.store_always_us:.0f} (Authorize alone)",
                "us of its one core",
            ),
            ("Valkey, waits for the disk", f"{costs.disk_waits:.2f} at most, at 32 calls at once", "fsyncs"),
            ("Valkey, append-only file", f"{costs.aof_bytes:.0f}", "bytes"),
            ("flusher", f"{costs.flusher_us:.0f}", "us of a core"),
            ("Postgres", f"{costs.postgres_us:.0f}", "us of its cores"),
            ("Postgres, WAL", f"{costs.wal_bytes:.0f}", "bytes"),
            ("network, unary", f"{unary.network_bytes:.0f}", "bytes, both directions"),
            ("network, Session", f"{session.network_bytes:.0f}", "bytes, both directions"),
            ("network, server to Valkey", f"{costs.store_bytes:.0f}", "bytes, both directions"),
            ("memory of a wallet", f"{costs.wallet_bytes:.0f}", "bytes"),
            ("memory of a hold", f"{costs.hold_bytes:.0f}", "bytes"),
        ],
    )


def _plans(plans: Sequence[Plan]) -> str:
    def row(name: str, value: Callable[[Plan], float], *, up: bool = False) -> tuple[str, ...]:
        return name, *(_count(value(each), up=up) for each in plans)

    def workers(name: str) -> tuple[str, ...]:
        return row(f"workers, {name}", lambda each: each.workers[name], up=True)

    return _table(
        ("", *(f"{each.per_s:,.0f} per second" for each in plans)),
        [
            *map(workers, plans[0].workers),
            row("Valkey primaries", lambda each: each.primaries, up=True),
            row("flushers", lambda each: each.flushers, up=True),
            row("cores of Postgres", lambda each: each.postgres_cores, up=True),
            row("append-only files, MB/s", lambda each: each.aof_mb_per_s),
            row("waits for disks per second, at most", lambda each: each.disk_waits_per_s),
            row("WAL, MB/s", lambda each: each.wal_mb_per_s),
            row("network, Gbit/s", lambda each: each.network_gbit_per_s),
            row("memory of Valkey, GiB", lambda each: each.memory_gib),
            row("dollars per hour, Session", lambda each: each.dollars_per_hour),
            row("dollars per million, Session", lambda each: each.dollars_per_million),
        ],
    )


def _count(value: float, *, up: bool = False) -> str:
    """A number of things, which are whole if ``up``, or of something that is not counted."""
    if up:
        return f"{math.ceil(value):,}"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
