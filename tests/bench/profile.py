"""Where the processor time of a server goes, while it answers Authorizes as fast as it can.

    make bench BENCH=profile ARGS="session"
    make bench BENCH=profile ARGS="unary --seconds 20 --stacks /tmp/stacks.txt"

Starts its own stores and server, and looks at the server's stacks with py-spy, those of libraries too. Prints shares of
layers, of our own modules, and microseconds per call. py-spy slows the server down a little; it needs root, or a kernel
that lets it look (sysctl kernel.yama.ptrace_scope=0).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

# Before gRPC is imported: its fork handlers would have a say in every program that is started.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import uvloop

from bench.load.generator import Calls, Generator
from bench.table.counters import CLOCK_TICKS
from bench.table.layers import OURS, by_layer, count, shares
from bench.table.messages import RIVAL, authorize_step
from bench.table.sides import Store, drawdown_server, script
from bench.table.stacks import CLIENT_TIMEOUT_MS, RIVAL_WALLETS, SIMPLEST
from drawdown_server.dev.postgres import PostgresProcess
from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.holds.startup import open_client
from drawdown_server.telemetry.logs import configure_logs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bench.table.sides import Side

MODES: Final = {
    "unary": "unary",
    "session": "session",
    "batch": "batch:32",
    "echo": "unary",
    "stream-echo": "session",
}
"""What is looked at, and how the calls travel. The echoes are bare servers: what of the others is gRPC's alone."""
WARM_UP_CALLS: Final = 3_200
BATCH: Final = 32
LOOKS_PER_S: Final = 200
"""Each stops the server for a fraction of a millisecond."""
STOPPED: Final = 2
"""How much slower a server may be while it is looked at, at most: the load must not end sooner."""
MODULES_SHOWN: Final = 20


@asynccontextmanager
async def serve(what: str, directory: Path) -> AsyncIterator[Side]:
    """The server that is looked at."""
    if what.endswith("echo"):
        async with script("echo") as echo:
            yield echo
        return
    async with AsyncExitStack() as opened:
        valkey = opened.enter_context(ValkeyProcess(directory / "valkey"))
        postgres = opened.enter_context(PostgresProcess(directory / "postgres"))
        client = await opened.enter_async_context(open_client(valkey.url, timeout_ms=CLIENT_TIMEOUT_MS))
        url = await postgres.create_database("ours")
        store = Store(valkey.port, valkey.pid, client)
        ours = await opened.enter_async_context(drawdown_server(store, valkey.url, url, directory, (SIMPLEST,)))
        yield ours.server


async def look(pid: int, seconds: int, file: Path) -> None:
    """Write a process' stacks to a file."""
    spy = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("py-spy")),
        *("record", "--native", "--format", "raw", "--rate", str(LOOKS_PER_S)),
        *("--duration", str(seconds), "--output", str(file), "--pid", str(pid)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await spy.communicate()
    if spy.returncode != 0:
        raise SystemExit(f"py-spy failed; see --help for what it needs:\n{printed.decode()}")


def times_s(pid: int) -> tuple[float, float]:
    """Processor time of a process: its own, and the kernel's for it."""
    values = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return int(values[11]) / CLOCK_TICKS, int(values[12]) / CLOCK_TICKS


async def profile(directory: Path, options: argparse.Namespace) -> None:
    """Start everything, look, print."""
    mode, is_echo = MODES[options.what], options.what.endswith("echo")
    shape, wallets = (RIVAL, RIVAL_WALLETS) if is_echo else (SIMPLEST, SIMPLEST.wallets)
    generator = Generator(directory)
    # So many calls at once, whatever carries them.
    at_once = options.concurrency // BATCH or 1 if mode.startswith("batch") else options.concurrency
    async with serve(options.what, directory) as side:

        async def run(first: int, calls: int) -> float:
            step = authorize_step(shape, mode)
            numbers = Calls(calls // BATCH * BATCH, first, wallets, at_once)
            return (await generator.grpc(side.port, [step], numbers, mode=mode, key=side.key)).rate

        await run(0, WARM_UP_CALLS)
        alone = times_s(side.pid)
        rate = await run(WARM_UP_CALLS, WARM_UP_CALLS)
        us = (sum(times_s(side.pid)) - sum(alone)) / WARM_UP_CALLS * 1e6
        load = asyncio.create_task(run(2 * WARM_UP_CALLS, int(rate * options.seconds * STOPPED)))
        before = times_s(side.pid)
        await look(side.pid, options.seconds, options.stacks or directory / "stacks")
        after = times_s(side.pid)
        is_whole = not load.done()
        await load
    own_s, kernel_s = after[0] - before[0], after[1] - before[1]
    lines = (options.stacks or directory / "stacks").read_text(encoding="utf-8").splitlines()
    parts = shares(count(lines), kernel_s / (own_s + kernel_s))
    if not is_whole:
        sys.stderr.write("the load ended sooner than the look: shares are right, but there are fewer samples\n")
    report(f"{options.what}: {rate:.0f} calls/s, {us:.0f} us of the server's processor time per call", us, parts)


def report(title: str, us: float, parts: dict[str, float]) -> None:
    """Print the shares, and what they are of so many microseconds."""

    def lines(some: dict[str, float]) -> str:
        return "".join(f"{share:8.1%}{share * us:8.1f} us  {layer}\n" for layer, share in some.items())

    sys.stdout.write(f"{title}\n\n{lines(by_layer(parts))}")
    ours = [(layer.removeprefix(OURS), share) for layer, share in parts.items() if layer.startswith(OURS)]
    if ours:
        sys.stdout.write(f"\nour own modules\n{lines(dict(ours[:MODULES_SHOWN]))}")


def main() -> None:
    """Parse the command line and look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=MODES, nargs="?", default="unary")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--concurrency", type=int, default=32, help="calls at once")
    parser.add_argument("--stacks", type=Path, help="keep the stacks in this file, as py-spy writes them")
    options = parser.parse_args()
    configure_logs("WARNING", "json")
    with tempfile.TemporaryDirectory(prefix="drawdown-bench-") as directory:
        uvloop.run(profile(Path(directory), options))


if __name__ == "__main__":
    main()
