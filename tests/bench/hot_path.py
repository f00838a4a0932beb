"""The hot path beside a bare gRPC server, the store alone, and what users build themselves, in one table.

    make bench BENCH=hot_path ARGS="--rounds 7 --json hot_path.json"

Starts its own stores and servers. Every round goes through all rows, so that a machine which is busy for a while slows
all of them; a cell is the median of the rounds, a ratio the median of the rounds' own ratios. README.md reads it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

# Before gRPC is imported: its fork handlers would have a say in every program that is started.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import uvloop

from bench.load.generator import NUMBER, WALLET, Generator, Result
from bench.load.sides import ASSETS, Shape, Side, drawdown_server, raw_authorize, script
from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import balance_service_pb2 as balance_pb
from drawdown.v1 import types_pb2
from drawdown_server.dev.postgres import PostgresProcess
from drawdown_server.dev.valkey import ValkeyProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

APPROVED: Final = b"\x08\x01"
"""``decision`` is the first field of an answer."""
ANY_MESSAGE: Final = b"\x0a"
"""A message or a string is the first field of an answer."""
CONCURRENCIES: Final = (1, 8, 32, 128)
USUAL: Final = 32
SHAPES: Final = (
    Shape("simplest"),
    Shape("10 grants", grants=10, wallets=100),
    Shape("100 grants", grants=100, wallets=20),
    Shape("2 assets", assets=2),
    Shape("4 assets", assets=4),
)
RIVAL_WALLETS: Final = 10_000
SERVICE: Final = "drawdown.v1.AuthorizationService"
BUSY: Final = 0.85
"""Of a core: a side that is this busy is what limits the row."""


@dataclass(frozen=True)
class Sample:
    """One run, and what it took of the two processes that do the work."""

    result: Result
    server_cpu_s: float
    store_cpu_s: float

    @property
    def limit(self) -> str:
        """What was busy all the time."""
        shares = {
            "server": self.server_cpu_s / self.result.seconds,
            "store": self.store_cpu_s / self.result.seconds,
            "generator": self.result.cpu_seconds / self.result.seconds,
        }
        side = max(shares, key=lambda name: shares[name])
        return side if shares[side] >= BUSY else "-"


class Bench:
    """The servers, and the samples of every row.

    Args:
        generator: Sends the calls.
        calls: Of one run with the usual concurrency.
    """

    def __init__(self, generator: Generator, calls: int) -> None:
        self._generator = generator
        self._calls = calls
        self._number = 0
        self.samples: dict[str, list[Sample]] = {}

    def numbers(self, calls: int) -> int:
        """The first of so many numbers that no call had yet."""
        first = self._number
        self._number += calls
        return first

    async def measure(self, row: str, side: Side, store: Side, run: Callable[[], asyncio.Future[Result]]) -> None:
        """One run of a row."""
        server_s, store_s = side.cpu_s(), store.cpu_s()
        result = await run()
        self.samples.setdefault(row, []).append(Sample(result, side.cpu_s() - server_s, store.cpu_s() - store_s))

    async def grpc(
        self,
        row: str,
        side: Side,
        store: Side,
        method: str,
        request: Message,
        *,
        answer: bytes = APPROVED,
        concurrency: int = USUAL,
        wallets: int,
        first: int | None = None,
    ) -> int:
        """One run of calls over gRPC; the number of the first call."""
        calls = self.calls(concurrency)
        start = self.numbers(calls) if first is None else first
        await self.measure(
            row,
            side,
            store,
            lambda: asyncio.ensure_future(
                self._generator.grpc(
                    side.port,
                    method,
                    request,
                    answer=answer,
                    concurrency=concurrency,
                    calls=calls,
                    first=start,
                    wallets=wallets,
                    key=side.key,
                )
            ),
        )
        return start

    async def pipeline(
        self, row: str, side: Side, store: Side, message: bytes, protocol: str, *, in_flight: int, connections: int
    ) -> None:
        """One run of calls in another protocol."""
        calls = self.calls(in_flight)
        await self.measure(
            row,
            side,
            store,
            lambda: asyncio.ensure_future(
                self._generator.pipeline(
                    side.port,
                    message,
                    protocol="resp" if protocol == "resp" else "http1",
                    answer="OK" if protocol == "resp" else '"approved":true',
                    in_flight=in_flight,
                    connections=connections,
                    calls=calls,
                    first=self.numbers(calls),
                    wallets=SHAPES[0].wallets if protocol == "resp" else RIVAL_WALLETS,
                )
            ),
        )

    def calls(self, concurrency: int) -> int:
        """Fewer one after the other than at once: a row takes about a second."""
        return self._calls if concurrency > 1 else self._calls // 4

    # --- the table -----------------------------------------------------------------------------------------------

    def median(self, row: str, value: Callable[[Sample], float]) -> float:
        """Over the rounds."""
        return statistics.median(value(sample) for sample in self.samples[row])

    def ratio(self, value: Callable[[dict[str, Sample]], float]) -> tuple[float, float]:
        """The median of the rounds' own values, and half the distance between their quartiles."""
        rounds = len(next(iter(self.samples.values())))
        values = [value({row: samples[n] for row, samples in self.samples.items()}) for n in range(rounds)]
        low, median, high = statistics.quantiles(values, n=4) if rounds > 1 else (values[0],) * 3
        return median, (high - low) / 2


@dataclass(frozen=True)
class Goal:
    """A row of DESIGN's table of speed: a ratio, and what it should be."""

    name: str
    value: Callable[[dict[str, Sample]], float]
    bound: float
    is_least: bool


GOALS: Final = (
    Goal(
        "unary Authorize, calls/s, as a share of the echo's (32 at once)",
        lambda s: s["authorize c32"].result.rate / s["echo c32"].result.rate,
        0.80,
        is_least=True,
    ),
    Goal(
        "the same, 128 at once",
        lambda s: s["authorize c128"].result.rate / s["echo c128"].result.rate,
        0.80,
        is_least=True,
    ),
    Goal(
        "unary p50 one at a time, beyond the echo's, in p50s of the FCALL alone",
        lambda s: (s["authorize c1"].result.p50_us - s["echo c1"].result.p50_us) / s["fcall c1"].result.p50_us,
        1.5,
        is_least=False,
    ),
    Goal(
        "calls/s as a multiple of a row lock in Postgres",
        lambda s: s["authorize c32"].result.rate / s["postgres row lock c32"].result.rate,
        5.0,
        is_least=True,
    ),
    Goal(
        "calls/s as a multiple of FastAPI, redis-py and Lua",
        lambda s: s["authorize c32"].result.rate / s["fastapi c32"].result.rate,
        2.0,
        is_least=True,
    ),
    Goal(
        "p50 as a share of FastAPI's",
        lambda s: s["authorize c32"].result.p50_us / s["fastapi c32"].result.p50_us,
        1.0,
        is_least=False,
    ),
    Goal(
        "p99 as a share of FastAPI's",
        lambda s: s["authorize c32"].result.p99_us / s["fastapi c32"].result.p99_us,
        1.0,
        is_least=False,
    ),
)


def authorize(shape: Shape) -> pb.AuthorizeRequest:
    """An Authorize for some wallet of a shape; the rivals know the simplest by the same ids."""
    return pb.AuthorizeRequest(
        wallet_id=f"{shape.prefix}{WALLET}",
        hold_id=f"hold-{NUMBER}",
        amounts=[types_pb2.Amount(asset=asset, units=7) for asset in ASSETS[: shape.assets]],
    )


def commit(shape: Shape) -> pb.CommitRequest:
    """The Commit of such a hold."""
    return pb.CommitRequest(
        wallet_id=f"{shape.prefix}{WALLET}",
        hold_id=f"hold-{NUMBER}",
        amounts=[types_pb2.Amount(asset=asset, units=5) for asset in ASSETS[: shape.assets]],
    )


def fastapi_request() -> bytes:
    """The same Authorize as FastAPI takes it."""
    body = json.dumps({"wallet_id": f"wallet-{WALLET}", "hold_id": f"hold-{NUMBER}", "asset": "USD", "units": 7})
    return (
        f"POST /authorize HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


@dataclass(frozen=True)
class Sides:
    """Everything that is compared."""

    ours: Side
    store: Side
    ours_everysec: Side
    store_everysec: Side
    raw_store: Side
    echo: Side
    postgres_lock: Side
    postgres: Side
    fastapi: Side
    fastapi_store: Side
    raw_command: bytes


async def one_round(bench: Bench, sides: Sides) -> None:
    """Every row once."""
    simplest = SHAPES[0]
    rival = authorize(Shape("wallet"))
    method = f"{SERVICE}/Authorize"
    for concurrency in CONCURRENCIES:
        await bench.grpc(
            f"echo c{concurrency}",
            sides.echo,
            sides.echo,
            method,
            rival,
            concurrency=concurrency,
            wallets=RIVAL_WALLETS,
        )
        await bench.grpc(
            f"authorize c{concurrency}",
            sides.ours,
            sides.store,
            method,
            authorize(simplest),
            concurrency=concurrency,
            wallets=simplest.wallets,
        )
    for in_flight in (1, USUAL):
        await bench.pipeline(
            f"fcall c{in_flight}",
            sides.raw_store,
            sides.raw_store,
            sides.raw_command,
            "resp",
            in_flight=in_flight,
            connections=1,
        )
    await other_rows(bench, sides)
    await bench.grpc("postgres row lock c32", sides.postgres_lock, sides.postgres, method, rival, wallets=RIVAL_WALLETS)
    await bench.pipeline(
        "fastapi c32",
        sides.fastapi,
        sides.fastapi_store,
        fastapi_request(),
        "http1",
        in_flight=USUAL,
        connections=USUAL,
    )


async def other_rows(bench: Bench, sides: Sides) -> None:
    """Ours alone: other verbs, other wallets, and what waiting for the disk costs."""
    simplest, method = SHAPES[0], f"{SERVICE}/Authorize"
    for shape in SHAPES[1:]:
        await bench.grpc(
            f"authorize, {shape.name} c32", sides.ours, sides.store, method, authorize(shape), wallets=shape.wallets
        )
    first = await bench.grpc(
        "authorize, everysec c32",
        sides.ours_everysec,
        sides.store_everysec,
        method,
        authorize(simplest),
        wallets=simplest.wallets,
    )
    await bench.grpc(
        "commit, everysec c32",
        sides.ours_everysec,
        sides.store_everysec,
        f"{SERVICE}/Commit",
        commit(simplest),
        answer=ANY_MESSAGE,
        wallets=simplest.wallets,
        first=first,
    )
    first = await bench.grpc(
        "authorize before commit c32", sides.ours, sides.store, method, authorize(simplest), wallets=simplest.wallets
    )
    await bench.grpc(
        "commit c32",
        sides.ours,
        sides.store,
        f"{SERVICE}/Commit",
        commit(simplest),
        answer=ANY_MESSAGE,
        wallets=simplest.wallets,
        first=first,
    )
    await bench.grpc(
        "get balance c32",
        sides.ours,
        sides.store,
        "drawdown.v1.BalanceService/GetBalance",
        balance_pb.GetBalanceRequest(wallet_id=f"{simplest.prefix}{WALLET}"),
        answer=ANY_MESSAGE,
        wallets=simplest.wallets,
    )


def report(bench: Bench) -> None:
    """Print the tables."""
    width = max(map(len, bench.samples))
    columns = ("calls/s", "p50 us", "p99 us", "p99.9 us", "server us", "store us", "limit")
    sys.stdout.write(f"\n{'':{width}}" + "".join(f"{column:>11}" for column in columns) + "\n")
    for row, samples in bench.samples.items():
        calls = samples[0].result.calls
        cells = (
            bench.median(row, lambda s: s.result.rate),
            bench.median(row, lambda s: s.result.p50_us),
            bench.median(row, lambda s: s.result.p99_us),
            bench.median(row, lambda s: s.result.p999_us),
            bench.median(row, lambda s, calls=calls: s.server_cpu_s / calls * 1e6),  # type: ignore[misc]
            bench.median(row, lambda s, calls=calls: s.store_cpu_s / calls * 1e6),  # type: ignore[misc]
        )
        limit = statistics.mode(sample.limit for sample in samples)
        sys.stdout.write(f"{row:{width}}" + "".join(f"{cell:>11.0f}" for cell in cells) + f"{limit:>11}\n")
    sys.stdout.write("\n")
    for goal in GOALS:
        value, spread = bench.ratio(goal.value)
        met = value >= goal.bound if goal.is_least else value <= goal.bound
        sign = ">=" if goal.is_least else "<="
        verdict = "" if met else "  falls short"
        sys.stdout.write(f"{goal.name:<75}{value:>6.2f} ±{spread:.2f}  (goal {sign} {goal.bound}){verdict}\n")


def as_json(bench: Bench) -> str:
    """Everything that was measured."""
    return json.dumps(
        {
            "version": 1,
            "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
            "rows": {row: [asdict(sample) for sample in samples] for row, samples in bench.samples.items()},
            "goals": {
                goal.name: {"median": bench.ratio(goal.value)[0], "bound": goal.bound, "is_least": goal.is_least}
                for goal in GOALS
            },
        },
        indent=1,
    )


async def measure(directory: Path, options: argparse.Namespace) -> None:
    """Start everything, then round after round."""
    bench = Bench(Generator(directory), options.calls)
    async with AsyncExitStack() as opened:

        def valkey(name: str, appendfsync: str = "always") -> ValkeyProcess:
            return opened.enter_context(ValkeyProcess(directory / name, appendfsync=appendfsync))

        postgres = opened.enter_context(PostgresProcess(directory / "postgres"))
        stores = {name: valkey(name) for name in ("ours", "raw", "fastapi")} | {
            "everysec": valkey("everysec", "everysec")
        }
        urls = {name: await postgres.create_database(name) for name in ("ours", "everysec", "rival")}
        side = {name: Side(store.port, store.pid) for name, store in stores.items()}
        sides = Sides(
            ours=await opened.enter_async_context(drawdown_server(stores["ours"].url, urls["ours"], directory, SHAPES)),
            store=side["ours"],
            ours_everysec=await opened.enter_async_context(
                drawdown_server(stores["everysec"].url, urls["everysec"], directory, SHAPES[:1])
            ),
            store_everysec=side["everysec"],
            raw_store=side["raw"],
            echo=await opened.enter_async_context(script("echo")),
            postgres_lock=await opened.enter_async_context(script("postgres_lock", urls["rival"], str(RIVAL_WALLETS))),
            postgres=Side(0, postgres.pid),
            fastapi=await opened.enter_async_context(script("fastapi_lua", stores["fastapi"].url, str(RIVAL_WALLETS))),
            fastapi_store=side["fastapi"],
            raw_command=await raw_authorize(stores["raw"].url, SHAPES[0].wallets),
        )
        for number in range(options.rounds + 1):
            await one_round(bench, sides)
            if number == 0:
                bench.samples.clear()  # the first round warms up
        report(bench)
        if options.json:
            options.json.write_text(as_json(bench), encoding="utf-8")


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=6_000, help="of one run")
    parser.add_argument("--json", type=Path, help="write everything that was measured to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="drawdown-bench-") as directory:
        uvloop.run(measure(Path(directory), options))


if __name__ == "__main__":
    main()
