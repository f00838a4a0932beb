"""``drawdown-server demo``: a gateway's traffic on a stack of its own, then the books are checked to the last unit.

The server is a process of its own, as in production: the gateway's work does not slow its event loop down, the
latencies are those of a real connection, and on two cores the two really run side by side.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import drawdown
from drawdown.load.trace import TraceError, read_trace
from drawdown_server.app import open_stores
from drawdown_server.config import Config
from drawdown_server.dev.audit import collect, differences, wait_until_expired, wait_until_recorded
from drawdown_server.dev.gateway import Gateway, UnansweredError
from drawdown_server.dev.key import dev_key
from drawdown_server.dev.plan import ASSETS, Plan, make_plan
from drawdown_server.dev.server import DrawdownProcess
from drawdown_server.dev.stack import EmbeddedStack, EmbeddedStackError
from drawdown_server.errors import ConfigurationError
from drawdown_server.ledger.migrations import migrate
from drawdown_server.ledger.reconcile import reconcile
from drawdown_server.telemetry.logs import configure_logs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from drawdown_server.dev.audit import Books
    from drawdown_server.dev.gateway import Acknowledged

CALL_TIMEOUT_S: Final = 5.0
"""Longer than the client's default: a laptop's disk may stall for a moment, and this is no race."""
SETTLE_TIMEOUT_S: Final = 60.0
"""Longest wait for the last hold to expire, and then for the flusher: both take about two seconds."""
SPARSE_LINES: Final = 4
"""Lines of progress where there is no terminal."""
DIFFERENCES_SHOWN: Final = 50
EXIT_DIFFERENT: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What to run."""

    trace: Path
    wallets: int
    concurrency: int
    seed: int
    requests: int | None
    """Only the first so many of the trace."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    acknowledged: Acknowledged
    books: Books
    differences: list[str]
    phases_s: dict[str, float]
    """Seconds by what they were spent on."""


class Stopwatch:
    """Seconds per phase."""

    def __init__(self) -> None:
        self.phases_s: dict[str, float] = {}
        self._since = time.monotonic()

    def lap(self, phase: str) -> None:
        """End a phase."""
        now = time.monotonic()
        self.phases_s[phase] = now - self._since
        self._since = now


async def run_demo(options: DemoOptions) -> int:
    """Run everything and print the result; the exit status.

    Raises:
        ConfigurationError: The trace or the stack is unusable, or the server went away; the message says how.
    """
    configure_logs("WARNING", "console")
    try:
        plan = make_plan(read_trace(options.trace, options.requests), wallets=options.wallets, seed=options.seed)
        with cancelled_by_signals(), tempfile.TemporaryDirectory(prefix="drawdown-demo-") as directory:
            outcome = await run_on_a_fresh_stack(Path(directory), plan, options.concurrency)
    except (TraceError, EmbeddedStackError) as error:
        raise ConfigurationError(str(error)) from error
    for line in report(outcome):
        typer.echo(line)
    typer.echo(f"demo: {json.dumps(summary(outcome))}")
    return EXIT_DIFFERENT if outcome.differences else 0


async def run_on_a_fresh_stack(directory: Path, plan: Plan, concurrency: int) -> Outcome:
    """Start stores and server in the directory, carry out the plan, check the books, stop everything."""
    watch = Stopwatch()
    async with EmbeddedStack.open(directory / "stores") as stack:
        # What the run depends on is fixed here; the rest may come from the environment.
        config = Config(
            valkey_url=stack.valkey_url,
            postgres_url=stack.postgres_url,
            hold_token_keys=stack.hold_token_keys,
            identity="keys",
            api_key_pepper=stack.api_key_pepper,
            flusher=True,
            ttl_default_ms=300_000,
        )
        await migrate(config.postgres_url)
        api_key = await dev_key(config, directory)
        async with (
            DrawdownProcess(directory / "server", config) as server,
            drawdown.AsyncClient(server.url, timeout_s=CALL_TIMEOUT_S, api_key=api_key) as client,
        ):
            watch.lap("start")
            gateway = Gateway(client, plan, concurrency=concurrency)
            try:
                await gateway.prepare()
                watch.lap("prepare")
                with progress(len(plan.requests)) as advance:
                    await gateway.run(advance)
                watch.lap("replay")
                return await check(config, client, plan, gateway.acknowledged, watch)
            except (UnansweredError, drawdown.DrawdownError) as error:
                raise ConfigurationError(f"{error}\nthe end of the server's log:\n{server.log_tail()}") from error


async def check(
    config: Config, client: drawdown.AsyncClient, plan: Plan, acknowledged: Acknowledged, watch: Stopwatch
) -> Outcome:
    """Wait until everything has come to rest, then compare everything with everything."""
    async with open_stores(config) as stores:
        await wait_until_expired(client, acknowledged, SETTLE_TIMEOUT_S)
        watch.lap("expire")
        await wait_until_recorded(client, stores.ledger, config.tenant, plan.wallets, SETTLE_TIMEOUT_S)
        watch.lap("flush")
        books = await collect(client, stores.ledger, config.tenant, plan.wallets, acknowledged)
        different = differences(acknowledged, books)
        watch.lap("audit")
        reconciled = await reconcile(stores.holds, stores.ledger, config.tenant)
        different += [f"reconcile: {difference}" for difference in reconciled.differences]
        if reconciled.wallets != len(plan.wallets):
            different.append(f"reconcile compared {reconciled.wallets} of {len(plan.wallets)} wallets")
        watch.lap("reconcile")
    return Outcome(acknowledged, books, different, watch.phases_s)


def summary(outcome: Outcome) -> dict[str, object]:
    """The last line, for programs. Amounts in units, over all wallets."""
    acknowledged, books = outcome.acknowledged, outcome.books
    return {
        "requests": acknowledged.requests,
        "approved": len(acknowledged.approved),
        "denied": acknowledged.denied.total(),
        "committed": len(acknowledged.committed),
        "released": len(acknowledged.released),
        "expired": books.expired,
        "assets": {
            asset: {
                "granted": sum(units for (_, of), units in acknowledged.granted.items() if of == asset),
                "debited": sum(commit.units.get(asset, 0) for commit in acknowledged.committed.values()),
                "held": sum(live.held for (_, of), live in books.live.items() if of == asset),
                "available": sum(live.available for (_, of), live in books.live.items() if of == asset),
                "ledger_debited": sum(e.units for e in books.entries if e.asset == asset and e.kind == "DEBIT"),
            }
            for asset in ASSETS
        },
        "conserved": not outcome.differences,
    }


def report(outcome: Outcome) -> Iterator[str]:
    """The result, for people."""
    acknowledged = outcome.acknowledged
    latencies_ms = sorted(1000 * seconds for seconds in acknowledged.authorize_s)
    replay_s = outcome.phases_s["replay"]
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in acknowledged.denied.most_common())
    lines = {
        "requests": f"{acknowledged.requests:,} in {replay_s:.1f} s, {acknowledged.requests / replay_s:,.0f}/s",
        "approved": f"{len(acknowledged.approved):,}",
        "denied": f"{acknowledged.denied.total():,}" + (f"  ({reasons})" if reasons else ""),
        "committed": f"{len(acknowledged.committed):,}",
        "released": f"{len(acknowledged.released):,}",
        "expired": f"{outcome.books.expired:,}",
        "authorize": f"p50 {_quantile(latencies_ms, 0.50):.1f} ms, p99 {_quantile(latencies_ms, 0.99):.1f} ms",
        "entries": f"{len(outcome.books.entries):,} in the ledger",
        "seconds": ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in outcome.phases_s.items()),
    }
    if acknowledged.sent_again:
        lines["sent again"] = f"{acknowledged.sent_again:,} calls that got no answer"
    width = max(map(len, lines))
    for name, value in lines.items():
        yield f"{name:<{width}}  {value}"
    for difference in outcome.differences[:DIFFERENCES_SHOWN]:
        yield f"DIFFERENT: {difference}"
    if len(outcome.differences) > DIFFERENCES_SHOWN:
        yield f"DIFFERENT: and {len(outcome.differences) - DIFFERENCES_SHOWN:,} more"


def _quantile(ordered: list[float], q: float) -> float:
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0


@contextmanager
def progress(total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on a terminal, a few lines elsewhere; on stderr, since stdout has the result."""
    if sys.stderr.isatty():
        columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda: bar.advance(task)
        return
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if done * SPARSE_LINES // total > (done - 1) * SPARSE_LINES // total:
            typer.echo(f"{done:,} of {total:,} requests", err=True)

    yield advance


@contextmanager
def cancelled_by_signals() -> Iterator[None]:
    """SIGINT and SIGTERM cancel this task, once: an impatient second one must not leave servers or files behind."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    signals = (signal.SIGINT, signal.SIGTERM)

    def cancel() -> None:
        if task is not None and not task.cancelling():
            typer.echo("stopping", err=True)
            task.cancel()

    for number in signals:
        loop.add_signal_handler(number, cancel)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
