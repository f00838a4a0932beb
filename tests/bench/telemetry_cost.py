"""What telemetry costs a unary Authorize: two servers on the same stores, one with all of it and one without any.

    .venv/bin/python tests/bench/telemetry_cost.py

"on" is a server as it is deployed: metrics, the admin port scraped every 5 seconds, 1 % of the calls traced and sent to
a collector, 1 % logged. "off" is the same server with all of that taken out. The two take turns, round by round, under
the same load and in short rounds, so a busy machine hurts both alike; ratios are medians over pairs of rounds. CPU per
call is of the server's process alone, over all rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import grpc
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from drawdown.v1 import asset_service_pb2 as asset_pb
from drawdown.v1 import (
    asset_service_pb2_grpc,
    authorization_service_pb2_grpc,
    grant_service_pb2_grpc,
    types_pb2,
    wallet_service_pb2_grpc,
)
from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import grant_service_pb2 as grant_pb
from drawdown.v1 import wallet_service_pb2 as wallet_pb
from drawdown_server import app
from drawdown_server.config import Config
from drawdown_server.dev.postgres import PostgresProcess
from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.holds import store as hold_store
from drawdown_server.ledger.migrations import migrate
from drawdown_server.telemetry.logs import configure_logs
from integration.collector import run_collector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

Variant = Literal["off", "on"]
WALLETS: Final = 256
GRANT_UNITS: Final = 10**12
SCRAPE_INTERVAL_S: Final = 5.0
"""More often than anybody scrapes."""
START_TIMEOUT_S: Final = 60.0
TTL_S: Final = 3_600
"""Longer than the run: a sweep would be work of either server, at random."""


class Nothing:
    """In the place of whatever is told about calls and scripts."""

    __slots__ = ("request", "tenant")

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def begin(self, method: str, metadata: object) -> Nothing:  # noqa: ARG002
        return self

    def answered(self, response: Any) -> Any:  # noqa: ANN401
        return response

    def failed(self, failure: Any) -> Any:  # noqa: ANN401
        return failure

    def end(self) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def serve(variant: Variant) -> None:
    """Be one of the two servers; the port is the first line on stdout."""
    configure_logs("INFO", "json")
    if variant == "off":
        app.CallRecorder = Nothing  # type: ignore[misc,assignment]
        hold_store.ScriptCall = Nothing  # type: ignore[misc,assignment]
        hold_store.count_decision = lambda *_: None
        hold_store.count_settlement = lambda *_: None
    uvloop.run(app.serve(Config(), on_ready=lambda port: print(port, flush=True)))  # noqa: T201


@dataclass
class Server:
    """A server's process, and what was measured of it."""

    pid: int
    authorize: Callable[..., Awaitable[Any]]
    rates: list[float] = field(default_factory=list)
    cpus_us: list[float] = field(default_factory=list)
    p50s_us: list[float] = field(default_factory=list)

    def cpu_s(self) -> float:
        """CPU time that the process has used, as Linux counts it."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.asynccontextmanager
async def start(variant: Variant, environment: dict[str, str]) -> AsyncIterator[Server]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        "--serve",
        variant,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert child.stdout is not None
        async with asyncio.timeout(START_TIMEOUT_S):
            port = int(await child.stdout.readline())
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            stub: Any = authorization_service_pb2_grpc.AuthorizationServiceStub(channel)
            if variant == "off":
                await fund(channel)
            yield Server(child.pid, stub.Authorize)
    finally:
        child.terminate()
        await child.wait()


async def fund(channel: grpc.aio.Channel) -> None:
    assets: Any = asset_service_pb2_grpc.AssetServiceStub(channel)
    wallets: Any = wallet_service_pb2_grpc.WalletServiceStub(channel)
    grants: Any = grant_service_pb2_grpc.GrantServiceStub(channel)
    await assets.CreateAsset(asset_pb.CreateAssetRequest(asset="USD", scale=6))
    for number in range(WALLETS):
        await wallets.CreateWallet(wallet_pb.CreateWalletRequest(wallet_id=f"w{number}"))
        await grants.CreateGrant(
            grant_pb.CreateGrantRequest(
                wallet_id=f"w{number}",
                grant_id="g",
                asset="USD",
                units=GRANT_UNITS,
                source=types_pb2.GRANT_SOURCE_PURCHASE,
            )
        )


async def load(server: Server, calls: int, concurrency: int, name: str) -> list[float]:
    """So many Authorizes, so many at a time; the time of each in seconds."""
    times: list[float] = []
    numbers = iter(range(calls))

    async def one_by_one() -> None:
        for number in numbers:
            request = pb.AuthorizeRequest(
                wallet_id=f"w{number % WALLETS}",
                hold_id=f"{name}-{number}",
                amounts=[types_pb2.Amount(asset="USD", units=100)],
                subjects=["key:sk_1", "model:m"],
            )
            request.ttl.FromSeconds(TTL_S)
            started = time.perf_counter()
            reply = await server.authorize(request, timeout=30)
            times.append(time.perf_counter() - started)
            assert reply.decision == pb.DECISION_APPROVED

    await asyncio.gather(*(one_by_one() for _ in range(concurrency)))
    return times


async def measure(valkey_url: str, postgres_url: str, options: argparse.Namespace) -> None:
    await migrate(postgres_url)
    shared = {
        "DRAWDOWN_VALKEY_URL": valkey_url,
        "DRAWDOWN_POSTGRES_URL": postgres_url,
        "DRAWDOWN_GRPC_PORT": "0",
        "DRAWDOWN_FLUSHER": "false",
        "DRAWDOWN_SWEEP_INTERVAL_MS": "60000",
    }
    async with contextlib.AsyncExitStack() as stack:
        collector = await stack.enter_async_context(run_collector())
        off = await stack.enter_async_context(start("off", shared))
        admin_port = free_port()
        telemetry = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "DRAWDOWN_ADMIN_PORT": str(admin_port)}
        on = await stack.enter_async_context(start("on", shared | telemetry))
        scraping = asyncio.create_task(scrape(admin_port))
        for number in range(options.rounds + 1):
            for variant, server in (("off", off), ("on", on)) if number % 2 else (("on", on), ("off", off)):
                cpu_s, started = server.cpu_s(), time.perf_counter()
                await load(server, options.calls, options.concurrency, f"{variant}-{number}")
                wall_s, cpu_s = time.perf_counter() - started, server.cpu_s() - cpu_s
                alone = await load(server, options.calls // 10, 1, f"{variant}-{number}-alone")
                if number:  # the first round warms up
                    server.rates.append(options.calls / wall_s)
                    server.cpus_us.append(cpu_s / options.calls * 1e6)
                    server.p50s_us.append(statistics.median(alone) * 1e6)
        scraping.cancel()
        await asyncio.gather(scraping, return_exceptions=True)
        assert collector.spans, "no span arrived: this would measure less than it says"
    report(off, on)


def report(off: Server, on: Server) -> None:
    for name, server in (("off", off), ("on", on)):
        sys.stdout.write(
            f"{name:4} {statistics.median(server.rates):8.0f} calls/s   p50 alone "
            f"{statistics.median(server.p50s_us):6.0f} us   cpu {statistics.mean(server.cpus_us):6.1f} us/call\n"
        )
    rate = statistics.median(a / b for a, b in zip(on.rates, off.rates, strict=True))
    p50 = statistics.median(a / b for a, b in zip(on.p50s_us, off.p50s_us, strict=True))
    cpu = statistics.mean(off.cpus_us) / statistics.mean(on.cpus_us)
    sys.stdout.write(f"telemetry_cost: on/off rate {rate:.3f} (goal 0.95), p50 {p50:.3f}; off/on cpu {cpu:.3f}\n")


async def scrape(port: int) -> None:
    while True:
        await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read())
        await asyncio.sleep(SCRAPE_INTERVAL_S)


def free_port() -> int:
    import socket  # noqa: PLC0415

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", choices=("off", "on"), help=argparse.SUPPRESS)
    parser.add_argument("--calls", type=int, default=400, help="per round and server")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--concurrency", type=int, default=32)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    with (
        tempfile.TemporaryDirectory(prefix="drawdown-bench-") as directory,
        ValkeyProcess(Path(directory) / "valkey", appendfsync="no") as valkey,
        PostgresProcess(Path(directory) / "postgres", fsync=False) as postgres,
    ):
        uvloop.run(measure(valkey.url, postgres.url, options))


if __name__ == "__main__":
    main()
