"""Several workers on one port, with their supervisor: restarted in turn, killed, orphaned, told to end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import drawdown
from drawdown_server.commands.workers import run_workers
from drawdown_server.dev.process import free_port, is_alive
from drawdown_server.errors import ConfigurationError
from faults.processes import Program, program
from faults.work import Work
from integration.audit import open_audit
from integration.server import Rpc, open_channel, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from drawdown_server.config import Config
    from integration.audit import Audit

WORKERS: Final = 2
CONNECTIONS: Final = 4
"""Of the client, so that the kernel gives some to either worker."""
CALLS_BETWEEN: Final = 60
TIMEOUT_S: Final = 10.0
"""Of a call: the machine of the tests is slow, and what is measured is failures, not time."""
FUNDS: Final = 10_000_000


@pytest.fixture
def workers_config(config: Config) -> Config:
    return config.model_copy(update={"workers": WORKERS})


@dataclass
class Served:
    """Workers that serve, and a client at work on them."""

    server: Program
    port: int
    rpc: Rpc
    audit: Audit
    wallet: str
    work: Work

    def events(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.server.log_lines() if line["event"] == event]

    async def tells(self, event: str, times: int) -> list[dict[str, Any]]:
        async def told() -> bool:
            return len(self.events(event)) >= times

        await until(told)
        return self.events(event)

    def pids(self) -> set[int]:
        """Of the workers that run."""
        return children(self.server.process.pid)


def children(parent: int) -> set[int]:
    """The processes that a process has started and that still run."""
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii")
    return {int(pid) for pid in found.split()}


@asynccontextmanager
async def serving(config: Config, directory: Path) -> AsyncIterator[Served]:
    """Workers and a client at work; at the end every debit that it knows of is there, and nothing else."""
    async with AsyncExitStack() as opened:
        server = await opened.enter_async_context(program("serve", config, directory))
        port = await server.ready()
        rpc = Rpc(await opened.enter_async_context(open_channel(port)))
        audit = await opened.enter_async_context(open_audit(config))
        await rpc.create_assets()
        wallet = await rpc.wallet(USD=FUNDS)
        client = drawdown.AsyncClient(f"127.0.0.1:{port}", timeout_s=TIMEOUT_S, connections=CONNECTIONS)
        work = Work(await opened.enter_async_context(client), wallet, tasks=CONNECTIONS)
        load = asyncio.create_task(work.run())
        served = Served(server, port, rpc, audit, wallet, work)
        try:
            yield served
        finally:
            work.stop.set()
            await load
        assert work.failures == []
        await audit.assert_conserved(wallet)
        assert (await rpc.balance(wallet)).settled_units == FUNDS - work.debited


@pytest.mark.parametrize(
    "restarts",
    [
        pytest.param(3, id="short"),
        pytest.param(20, id="long", marks=[pytest.mark.soak, pytest.mark.timeout(900)]),
    ],
)
async def test_no_call_fails_while_the_workers_are_restarted_in_turn(
    workers_config: Config, directory: Path, restarts: int
) -> None:
    admin_port = free_ports(WORKERS)
    async with serving(workers_config.model_copy(update={"admin_port": admin_port}), directory) as served:
        for number in range(restarts):
            await served.work.reaches(CALLS_BETWEEN)
            before = served.pids()
            served.server.send(signal.SIGHUP)
            await served.tells("workers.restarted", number + 1)
            assert len(served.pids()) == WORKERS
            assert not served.pids() & before
            assert served.work.failures == [], f"restart {number}"
            for index in range(WORKERS):
                await calls_of(admin_port + index)  # somebody answers there, although two wanted that port for a while
        await served.work.reaches(CALLS_BETWEEN)
        ready = served.events("server.ready")
        assert len(ready) == WORKERS * (restarts + 1)
        assert {line["worker"] for line in ready} == set(range(WORKERS))
        assert {line["port"] for line in ready} == {served.port}


async def test_no_call_fails_when_workers_are_killed_and_others_take_their_places(
    workers_config: Config, directory: Path
) -> None:
    async with serving(workers_config, directory) as served:
        for killed in range(1, 4):
            await served.work.reaches(CALLS_BETWEEN)
            os.kill(min(served.pids()), signal.SIGKILL)
            await served.tells("worker.died", killed)
            await served.tells("server.ready", WORKERS + killed)
        await served.work.reaches(CALLS_BETWEEN)


async def test_connections_get_old_and_are_made_anew_without_a_failed_call(
    workers_config: Config, directory: Path
) -> None:
    admin_port = free_ports(WORKERS)
    config = workers_config.model_copy(update={"connection_age_s": 0.5, "admin_port": admin_port})
    async with serving(config, directory) as served:
        first = local_ports(served.port)

        async def all_are_new() -> bool:
            return not first & local_ports(served.port)

        for _ in range(3):
            await until(all_are_new)
            first = local_ports(served.port)
            await served.work.reaches(CALLS_BETWEEN)
        calls = [await calls_of(admin_port + index) for index in range(WORKERS)]
        assert min(calls) > 0, "both workers had some of the load"


async def test_sigterm_drains_all_workers_and_everything_is_recorded(workers_config: Config, directory: Path) -> None:
    async with program("serve", workers_config, directory) as server, open_audit(workers_config) as audit:
        async with open_channel(await server.ready()) as channel:
            rpc = Rpc(channel)
            await rpc.create_assets()
            wallet = await rpc.wallet(USD=1000)
            await asyncio.gather(*(rpc.authorize(wallet, f"h{n}", USD=2) for n in range(50)))
            await asyncio.gather(*(rpc.commit(wallet, f"h{n}", USD=1) for n in range(50)))
        server.send(signal.SIGTERM)
        assert await server.exit_code() == 0
        assert sum(entry.units for entry in await audit.entries(wallet) if entry.hold_id) == 50
        stopped = [line for line in server.log_lines() if line["event"] == "server.stopped"]
        assert sorted(line["worker"] for line in stopped) == [0, 1]
        await audit.assert_conserved(wallet)


async def test_workers_whose_supervisor_is_killed_drain_and_end(workers_config: Config, directory: Path) -> None:
    async with program("serve", workers_config, directory) as server:
        orphans = children(server.process.pid)
        assert len(orphans) == WORKERS
        server.kill()

        async def all_ended() -> bool:
            return not any(is_alive(pid) for pid in orphans)

        await until(all_ended)
        assert [line["event"] for line in server.log_lines()].count("server.stopped") == WORKERS


async def test_a_taken_port_is_an_error_also_if_others_share_theirs(workers_config: Config, directory: Path) -> None:
    async with program("serve", workers_config, directory) as server:
        port = await server.ready()
        with pytest.raises(ConfigurationError, match=rf"127\.0\.0\.1:{port}: the port is taken"):
            await run_workers(workers_config.model_copy(update={"grpc_port": port}), [])
        shared = workers_config.model_copy(update={"grpc_port": port, "admin_port": port - 1})
        with pytest.raises(ConfigurationError, match="DRAWDOWN_ADMIN_PORT"):
            await run_workers(shared, [])


async def test_workers_that_cannot_start_say_why_once(workers_config: Config, directory: Path) -> None:
    lost = workers_config.model_copy(update={"postgres_url": f"postgresql://127.0.0.1:{free_port()}/x"})
    server = Program("serve", lost, directory)
    server.launch()
    try:
        assert await server.exit_code() == 1
    finally:
        server.close()
    errors = [line for line in server.log().splitlines() if not line.startswith("{")]
    assert errors == ["error: postgres cannot be reached"]
    assert [line["event"] for line in server.log_lines() if "worker" in line] == ["workers.gave_up"]


def free_ports(count: int) -> int:
    """The first of so many ports in a row on which nobody listens at the moment."""
    while True:
        first = free_port()
        try:
            with ExitStack() as opened:
                for port in range(first, first + count):
                    opened.enter_context(socket.socket()).bind(("127.0.0.1", port))
        except OSError:
            continue
        return first


def local_ports(port: int) -> set[int]:
    """Our ends of the connections to a port."""
    found = set()
    for table in ("tcp", "tcp6"):  # gRPC speaks IPv4 on sockets of IPv6
        lines = Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]
        for columns in (line.split() for line in lines):
            if columns[2].endswith(f":{port:04X}") and columns[3] == "01":
                found.add(int(columns[1].split(":")[1], 16))
    return found


async def calls_of(admin_port: int) -> float:
    """Authorizes that a worker has answered, by its metrics."""
    reader, writer = await asyncio.open_connection("127.0.0.1", admin_port)
    writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    counts = [
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith("rpc_server_call_duration_seconds_count") and "Authorize" in line
    ]
    return sum(counts)
