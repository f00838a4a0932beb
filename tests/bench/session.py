"""What an Authorize costs by the way it travels: an RPC of its own, a Session, a Batch of 32; beside a bare echo.

    .venv/bin/python tests/bench/session.py

"echo" is a server of grpc.aio that answers each Authorize with the same bytes and does nothing else: what no unary
call can beat. The others go to one Drawdown server, with the same messages. All take turns, round by round, so a busy
machine hurts them alike; numbers are medians over the rounds, ratios medians over pairs of the same round. CPU is of
the server's process and of this one, per call, with one message at a time.
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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.telemetry_cost import WALLETS, fund
from drawdown._channel import Settings
from drawdown._sessions import Sessions
from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import authorization_service_pb2_grpc, types_pb2
from drawdown_server import app
from drawdown_server.config import Config
from drawdown_server.dev.postgres import PostgresProcess
from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.ledger.migrations import migrate
from drawdown_server.telemetry.logs import configure_logs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Send = Callable[[list[pb.AuthorizeRequest]], Awaitable[None]]

BATCH: Final = 32
ANSWER: Final = "DRAWDOWN_BENCH_ANSWER"
TTL_S: Final = 3_600
TIMEOUT_S: Final = 30.0
WAYS: Final = {"echo": 1, "unary": 1, "session": 1, "batch": BATCH}
"""By name: how many calls it sends at a time."""


@dataclass
class Round:
    """What was measured of one way in one round."""

    rate: float
    p50_us: float
    server_us: float
    client_us: float


def request(name: str, number: int) -> pb.AuthorizeRequest:
    made = pb.AuthorizeRequest(
        wallet_id=f"w{number % WALLETS}",
        hold_id=f"{name}-{number}",
        amounts=[types_pb2.Amount(asset="USD", units=100)],
        subjects=["key:sk_1", "model:m"],
    )
    made.ttl.FromSeconds(TTL_S)
    return made


class Echo(authorization_service_pb2_grpc.AuthorizationServiceServicer):
    """Answers with what it was given."""

    answer = pb.AuthorizeResponse.FromString(bytes.fromhex(os.environ.get(ANSWER, "")))

    async def Authorize(self, request: object, context: object) -> pb.AuthorizeResponse:  # noqa: ARG002, N802
        return self.answer


async def serve_echo() -> None:
    server = grpc.aio.server()
    authorization_service_pb2_grpc.add_AuthorizationServiceServicer_to_server(Echo(), server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)  # noqa: T201
    await server.start()
    await server.wait_for_termination()


@contextlib.asynccontextmanager
async def start(what: str, environment: dict[str, str]) -> AsyncIterator[tuple[int, int]]:
    """A server's process: its pid and its port."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        "--serve",
        what,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert child.stdout is not None
        yield child.pid, int(await child.stdout.readline())
    finally:
        child.terminate()
        await child.wait()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(send: Send, size: int, calls: int, concurrency: int, name: str) -> list[float]:
    """So many calls, so many senders at a time; the time of each message in seconds."""
    times: list[float] = []
    numbers = iter(range(0, calls, size))

    async def one_by_one() -> None:
        for first in numbers:
            requests = [request(name, number) for number in range(first, first + size)]
            started = time.perf_counter()
            await send(requests)
            times.append(time.perf_counter() - started)

    await asyncio.gather(*(one_by_one() for _ in range(concurrency)))
    return times


async def measure(send: Send, size: int, pid: int, options: argparse.Namespace, name: str) -> Round:
    started = time.perf_counter()
    await load(send, size, options.calls, max(1, options.concurrency // size), name)
    rate = options.calls / (time.perf_counter() - started)
    alone = options.calls // 4
    server_s, client_s = cpu_s(pid), time.process_time()
    times = await load(send, size, alone, 1, f"{name}-alone")
    server_s, client_s = cpu_s(pid) - server_s, time.process_time() - client_s
    return Round(rate, statistics.median(times) * 1e6, server_s / alone * 1e6, client_s / alone * 1e6)


async def compare(valkey_url: str, postgres_url: str, options: argparse.Namespace) -> None:
    await migrate(postgres_url)
    shared = {
        "DRAWDOWN_VALKEY_URL": valkey_url,
        "DRAWDOWN_POSTGRES_URL": postgres_url,
        "DRAWDOWN_GRPC_PORT": "0",
        "DRAWDOWN_FLUSHER": "false",
        "DRAWDOWN_SWEEP_INTERVAL_MS": "60000",
    }
    async with contextlib.AsyncExitStack() as stack:
        pid, port = await stack.enter_async_context(start("drawdown", shared))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        await fund(channel)
        stub: Any = authorization_service_pb2_grpc.AuthorizationServiceStub(channel)
        answer = (await stub.Authorize(request("first", 0))).SerializeToString().hex()
        echo_pid, echo_port = await stack.enter_async_context(start("echo", {ANSWER: answer}))
        echo_channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{echo_port}"))
        echo_stub: Any = authorization_service_pb2_grpc.AuthorizationServiceStub(echo_channel)
        sessions = Sessions(Settings.of(f"127.0.0.1:{port}", TIMEOUT_S, None, ()))
        stack.push_async_callback(sessions.close)

        async def echo(requests: list[pb.AuthorizeRequest]) -> None:
            await echo_stub.Authorize(requests[0], timeout=TIMEOUT_S)

        async def unary(requests: list[pb.AuthorizeRequest]) -> None:
            assert (await stub.Authorize(requests[0], timeout=TIMEOUT_S)).decision == pb.DECISION_APPROVED

        async def session(requests: list[pb.AuthorizeRequest]) -> None:
            result = await sessions.perform(pb.Operation(authorize=requests[0]), TIMEOUT_S)
            assert result.authorize.decision == pb.DECISION_APPROVED

        async def batch(requests: list[pb.AuthorizeRequest]) -> None:
            operations = [pb.Operation(authorize=each) for each in requests]
            reply = await stub.Batch(pb.BatchRequest(operations=operations), timeout=TIMEOUT_S)
            assert all(result.authorize.decision == pb.DECISION_APPROVED for result in reply.results)

        sends: dict[str, Send] = {"echo": echo, "unary": unary, "session": session, "batch": batch}
        rounds: dict[str, list[Round]] = {way: [] for way in WAYS}
        for number in range(options.rounds + 1):
            for way, size in WAYS.items():
                measured = await measure(
                    sends[way], size, echo_pid if way == "echo" else pid, options, f"{way}-{number}"
                )
                if number:  # the first round warms up
                    rounds[way].append(measured)
    report(rounds)


def report(rounds: dict[str, list[Round]]) -> None:
    for way, measured in rounds.items():
        sys.stdout.write(
            f"{way:8} {statistics.median(each.rate for each in measured):8.0f} calls/s   p50 of a message alone "
            f"{statistics.median(each.p50_us for each in measured):6.0f} us   cpu per call alone: server "
            f"{statistics.mean(each.server_us for each in measured):5.0f} us, client "
            f"{statistics.mean(each.client_us for each in measured):5.0f} us\n"
        )

    def ratio(one: str, other: str, value: Callable[[Round], float]) -> float:
        return statistics.median(value(a) / value(b) for a, b in zip(rounds[one], rounds[other], strict=True))

    sys.stdout.write(
        f"session: p50 {ratio('session', 'echo', lambda each: each.p50_us):.2f} of echo's (goal 0.6), rate "
        f"{ratio('session', 'unary', lambda each: each.rate):.2f} of unary's (goal 2); batch: rate "
        f"{ratio('batch', 'unary', lambda each: each.rate):.2f} of unary's\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", choices=("drawdown", "echo"), help=argparse.SUPPRESS)
    parser.add_argument("--calls", type=int, default=1_024, help="per round and way")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--concurrency", type=int, default=64)
    options = parser.parse_args()
    if options.serve == "echo":
        uvloop.run(serve_echo())
    elif options.serve:
        configure_logs("INFO", "json")
        uvloop.run(app.serve(Config(), on_ready=lambda port: print(port, flush=True)))  # noqa: T201
    else:
        with (
            tempfile.TemporaryDirectory(prefix="drawdown-bench-") as directory,
            ValkeyProcess(Path(directory) / "valkey", appendfsync="no") as valkey,
            PostgresProcess(Path(directory) / "postgres", fsync=False) as postgres,
        ):
            uvloop.run(compare(valkey.url, postgres.url, options))


if __name__ == "__main__":
    main()
