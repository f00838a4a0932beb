"""The server of another checkout beside this one's, or this one's with another setting: is a change faster?

    make bench BENCH=compare ARGS="--other ../before"
    make bench BENCH=compare ARGS="--set log_sample_ratio=0 --concurrency 1"

Both serve at once, each on its own Valkey (appendfsync always), and have their runs of Authorizes by turns. Prints
medians, and the median of the rounds' own ratios. On a busy machine, as root: ``chrt -r 5 make bench ...``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

# Before gRPC is imported: its fork handlers would have a say in every program that is started.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import uvloop

from bench.load.generator import Calls, Generator
from bench.table.counters import cpu_s
from bench.table.messages import authorize_step
from bench.table.sides import Ours, Store, drawdown_server
from bench.table.stacks import CLIENT_TIMEOUT_MS, NO_REWRITE, SIMPLEST
from drawdown_server.dev.postgres import PostgresProcess
from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.holds.startup import open_client

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Run:
    """One run of calls."""

    rate: float
    p50_us: float
    p99_us: float
    server_us: float
    store_us: float


async def measure(generator: Generator, ours: Ours, store: Store, first: int, options: argparse.Namespace) -> Run:
    server_s, store_s = cpu_s(ours.server.pid), cpu_s(store.pid)
    result = await generator.grpc(
        ours.server.port,
        [authorize_step(SIMPLEST, options.mode)],
        Calls(options.calls, first, SIMPLEST.wallets, options.concurrency),
        mode=options.mode,
        key=ours.server.key,
    )
    per_call = 1e6 / options.calls
    return Run(
        result.rate,
        result.p50_us,
        result.p99_us,
        (cpu_s(ours.server.pid) - server_s) * per_call,
        (cpu_s(store.pid) - store_s) * per_call,
    )


async def compare(directory: Path, options: argparse.Namespace) -> None:
    generator = Generator(directory)
    runs: dict[str, list[Run]] = {"one": [], "other": []}
    async with AsyncExitStack() as opened:
        postgres = opened.enter_context(PostgresProcess(directory / "postgres"))
        sides: dict[str, tuple[Ours, Store]] = {}
        for name in runs:
            valkey = opened.enter_context(ValkeyProcess(directory / name, extra=NO_REWRITE))
            client = await opened.enter_async_context(open_client(valkey.url, timeout_ms=CLIENT_TIMEOUT_MS))
            store = Store(valkey.port, valkey.pid, client)
            ours = await opened.enter_async_context(
                drawdown_server(
                    store,
                    valkey.url,
                    await postgres.create_database(name),
                    directory,
                    (SIMPLEST,),
                    python=_python(options.other) if name == "other" else sys.executable,
                    variables=dict(options.set) if name == "other" else None,
                )
            )
            sides[name] = (ours, store)
        for number, first in _rounds(options):
            for name in runs if number % 2 else reversed(runs):
                run = await measure(generator, *sides[name], first, options)
                if number:  # the first round warms up
                    runs[name].append(run)
    report(runs)


def _python(checkout: Path | None) -> str:
    return sys.executable if checkout is None else str(checkout.absolute() / ".venv" / "bin" / "python")


def _variable(text: str) -> tuple[str, str]:
    """A setting as the environment has it."""
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError("must be name=value")
    return name if name.isupper() else f"DRAWDOWN_{name.upper()}", value


def _rounds(options: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """Number of the round, and of its first call."""
    return ((number, number * options.calls) for number in range(options.rounds + 1))


def report(runs: dict[str, list[Run]]) -> None:
    columns = ("rate", "p50_us", "p99_us", "server_us", "store_us")
    sys.stdout.write(f"{'':18}" + "".join(f"{column:>12}" for column in columns) + "\n")
    for name, measured in runs.items():
        cells = (statistics.median(getattr(run, column) for run in measured) for column in columns)
        sys.stdout.write(f"{name:18}" + "".join(f"{cell:12.0f}" for cell in cells) + "\n")
    pairs = list(zip(runs["one"], runs["other"], strict=True))
    ratios = (
        statistics.median(getattr(other, column) / getattr(one, column) for one, other in pairs) for column in columns
    )
    sys.stdout.write(f"{'other by one':18}" + "".join(f"{ratio:12.3f}" for ratio in ratios) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, help="a checkout with an environment of its own; default: this one")
    parser.add_argument(
        "--set",
        type=_variable,
        action="append",
        default=[],
        help="a setting of the other, or NAME=value of its environment; may be repeated",
    )
    parser.add_argument("--mode", default="unary", help="unary, session, or batch:32")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--calls", type=int, default=3_000, help="of one run")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="drawdown-bench-") as directory:
        uvloop.run(compare(Path(directory), options))


if __name__ == "__main__":
    main()
