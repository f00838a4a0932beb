"""The processes of the soak: two stores, a line with faults before each, servers and flushers that are kept alive."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Final, Self

import drawdown
from drawdown_server.config import new_token_key
from drawdown_server.dev.postgres import PostgresProcess
from drawdown_server.dev.process import free_port
from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.holds.nodes import OneNode
from drawdown_server.ledger.database import open_pool
from drawdown_server.ledger.migrations import migrate
from drawdown_server.ledger.recovery import examine_partitions
from drawdown_server.ledger.store import LedgerStore
from faults.processes import Program
from faults.tcp_proxy import TcpProxy
from integration.server import settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from redis.asyncio import Redis

    from simulation.soak.books import Books

SERVERS: Final = 2
FLUSHERS: Final = 2
CALL_TIMEOUT_S: Final = 3.0
WATCH_S: Final = 0.05
RESTART_PAUSE_S: Final = 0.2
DATABASE: Final = "drawdown"
OURS: Final = (
    "valkey.error",
    "valkey.protocol_error",
    "valkey.check_failed",
    "rpc.failed",
    "sweeper.failed",
    "waker.failed",
    "evictor.failed",
    "changes.apply_failed",
    "presence_failed",
    "dead_letter",
    "reconcile_difference",
)
"""Events of the log that mean a mistake of ours, whatever has happened to the stores."""
SETTINGS: Final = {
    "partitions": 8,
    "flusher": False,
    "valkey_timeout_ms": 1_000,
    "postgres_timeout_ms": 3_000,
    "sweep_interval_ms": 200,
    "evict_idle_s": 60,
    "evict_interval_ms": 1_000,
    "log_sample_ratio": 0.0,
}


class Kept:
    """A program that is started again whenever it is gone."""

    def __init__(self, program: Program, name: str, books: Books) -> None:
        self.program = program
        self.name = name
        self._books = books
        self._task: asyncio.Task[None] | None = None
        self._is_wanted = True
        self._killed = False
        self.starts = 0

    def start(self) -> None:
        """Begin to keep it alive."""
        self._task = asyncio.create_task(self._keep(), name=self.name)

    def kill(self) -> None:
        """Kill -9; it is started again."""
        if self.program.is_running:
            self._killed = True
            self.program.process.kill()

    @property
    def is_ready(self) -> bool:
        """It has said so, and runs."""
        is_alive = self.program.is_running and self.program.process.poll() is None
        return is_alive and not self._killed and self.program.says_ready()

    async def stop(self) -> None:
        """Stop cleanly, and keep it no longer."""
        self._is_wanted = False
        if self._task is None:
            return
        while not self._task.done():
            if self.program.is_running and self.program.process.poll() is None:
                self.program.process.terminate()
            await asyncio.wait([self._task], timeout=1.0)
        await self._task

    async def _keep(self) -> None:
        while self._is_wanted:
            self._killed = False
            self.program.launch()
            self.starts += 1
            while self.program.process.poll() is None:  # noqa: ASYNC110 - it lives in another process
                await asyncio.sleep(WATCH_S)
            was_ready, killed = self.program.says_ready(), self._killed
            code = await self.program.exit_code()
            if self._is_wanted and was_ready and not killed:
                self._books.wrong.append(f"{self.name} ended by itself with {code}:\n{self.program.log()[-3_000:]}")
            await asyncio.sleep(RESTART_PAUSE_S)


class Stack:
    """``async with Stack(directory, books) as stack``."""

    def __init__(self, directory: Path, books: Books) -> None:
        self.books = books
        self._directory = directory
        # These two may lose no acknowledged write when they are killed.
        self.valkey = ValkeyProcess(directory / "valkey", appendfsync="always")
        self.postgres = PostgresProcess(directory / "postgres", fsync=False)
        self.servers: list[Kept] = []
        self.flushers: list[Kept] = []
        self.clients: list[drawdown.AsyncClient] = []
        self._opened = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            await self._opened.aclose()
            raise
        return self

    async def _open(self) -> None:
        enter = self._opened.enter_async_context
        await enter(self.valkey)
        await enter(self.postgres)
        url = await self.postgres.create_database(DATABASE)
        await migrate(url)
        self.valkey_line = await enter(TcpProxy(self.valkey.port))
        self.postgres_line = await enter(TcpProxy(self.postgres.port, counts_replies=False))
        # The auditor goes past the lines.
        own = SETTINGS | {"hold_token_keys": new_token_key()}
        self.config = settings(self.valkey.url, url, **own)
        behind = settings(
            self.valkey_line.url,
            url.replace(f":{self.postgres.port}/", f":{self.postgres_line.port}/"),
            **own,
        )
        for number in range(SERVERS):
            port = free_port()
            config = behind.model_copy(update={"grpc_port": port})
            self.servers.append(Kept(Program("serve", config, self._directory), f"server {number}", self.books))
            self.clients.append(await enter(drawdown.AsyncClient(f"127.0.0.1:{port}", timeout_s=CALL_TIMEOUT_S)))
        for number in range(FLUSHERS):
            self.flushers.append(Kept(Program("flush", behind, self._directory), f"flusher {number}", self.books))
        for kept in (*self.servers, *self.flushers):
            kept.start()
            self._opened.push_async_callback(kept.stop)

    async def __aexit__(self, *_: object) -> None:
        await self._opened.aclose()

    async def ready(self, timeout_s: float = 120.0) -> None:
        """Wait until every program serves."""
        async with asyncio.timeout(timeout_s):
            while not all(kept.is_ready for kept in (*self.servers, *self.flushers)):  # noqa: ASYNC110 - as above
                await asyncio.sleep(WATCH_S)

    def faults_of_ours(self) -> list[str]:
        """Lines of the logs that no fault from outside explains."""
        lines = [line for log in sorted(self._directory.glob("*.log")) for line in log.read_text().splitlines()]
        return [line for line in lines if any(f'"{event}"' in line for event in OURS)]

    @property
    def starts(self) -> int:
        """How often programs were started again."""
        return sum(kept.starts - 1 for kept in (*self.servers, *self.flushers))

    async def recoveries(self) -> int:
        """Epochs begun because Valkey had lost state."""
        async with open_pool(self.config) as pool:
            return sum(row.epoch - 1 for row in await LedgerStore(pool).read_partitions())

    async def unrecorded(self, redis: Redis) -> int:
        """Events in the outboxes that Postgres has not recorded."""
        async with open_pool(self.config) as pool:
            verdicts = await examine_partitions(OneNode(redis), LedgerStore(pool), range(self.config.partitions))
        return sum(verdict.unrecorded for verdict in verdicts)

    async def kill(self, what: str, target: int) -> None:
        """Kill -9; stores are started again on what they had."""
        if what in ("valkey", "postgres"):
            store = self.valkey if what == "valkey" else self.postgres
            await asyncio.to_thread(store.kill)
            await asyncio.to_thread(store.start)
        else:
            self._kept(what, target).kill()

    @contextmanager
    def stopped(self, what: str, target: int) -> Iterator[None]:
        """SIGSTOP inside, SIGCONT after."""
        if what == "valkey":
            pid = self.valkey.pid
        else:
            program = self._kept(what, target).program
            if not program.is_running:
                yield
                return
            pid = program.process.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def _kept(self, what: str, target: int) -> Kept:
        several = self.servers if what == "server" else self.flushers
        return several[target % len(several)]
