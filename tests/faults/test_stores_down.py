"""Valkey or Postgres stops, crashes or hangs while a gateway works, and comes back on the same data."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from structlog.testing import capture_logs

import stores
from drawdown.v1 import authorization_service_pb2 as pb
from drawdown_server.dev.postgres import PostgresProcess
from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.ledger.migrations import migrate
from faults.gateway import Gateway
from faults.processes import sockets_to
from integration.audit import open_audit
from integration.server import Failure, authorize_request, commit_request, grant_request, run_server, settings, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from drawdown.v1 import grant_service_pb2 as grant_pb
    from drawdown_server.config import Config
    from integration.server import Server

QUICKLY_S = 1.5
VALKEY_TIMEOUT_MS = 500


@asynccontextmanager
async def durable(data_dir: Path, postgres_url: str) -> AsyncIterator[tuple[ValkeyProcess, Config]]:
    """A Valkey of its own that loses no acknowledged write, and the settings of a server on it."""
    async with ValkeyProcess(data_dir, appendfsync="always") as valkey:
        yield valkey, settings(valkey.url, postgres_url, valkey_timeout_ms=VALKEY_TIMEOUT_MS)


async def fails_quickly(server: Server, wallet: str, hold_id: str) -> list[Failure]:
    """Authorize, Commit and Release without Valkey: UNAVAILABLE, soon, and when to try again."""
    failures = []
    for request in (
        authorize_request(wallet, "new", USD=1),
        commit_request(wallet, hold_id, USD=1),
        pb.ReleaseRequest(wallet_id=wallet, hold_id=hold_id),
    ):
        started = time.monotonic()
        failures.append(await server.failure(request))
        assert time.monotonic() - started < QUICKLY_S
    return failures


def assert_store_unavailable(failures: list[Failure], store: str) -> None:
    for failure in failures:
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert (failure.metadata, failure.retry_ms) == ({"store": store}, 50)
        assert "127.0.0.1" not in failure.message


@pytest.mark.parametrize("how", ["stopped", "hanging"])
async def test_without_valkey_calls_fail_quickly_and_work_again_afterwards(
    data_dir: Path, postgres_url: str, how: str
) -> None:
    async with durable(data_dir, postgres_url) as (valkey, config), run_server(config) as server:
        wallet = await server.wallet(USD=100)
        await server.authorize(wallet, "h", USD=10)
        if how == "stopped":
            valkey.stop()
        else:
            signal_valkey(valkey, signal.SIGSTOP)
        assert_store_unavailable(await fails_quickly(server, wallet, "h"), "valkey")
        if how == "stopped":
            valkey.start()
        else:
            signal_valkey(valkey, signal.SIGCONT)

        async def committed() -> bool:
            try:
                return bool((await server.commit(wallet, "h", USD=7)).wallet_sequence)
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                return False

        await until(committed)
        assert [entry.units for entry in await server.debits(wallet, at_least=1)] == [7]
        assert not server.task.done()
        async with open_audit(config) as audit:
            await audit.assert_conserved(wallet)


def signal_valkey(valkey: ValkeyProcess, number: signal.Signals) -> None:
    os.kill(valkey.pid, number)


async def test_kill_9_of_valkey_under_load_loses_and_doubles_nothing(data_dir: Path, postgres_url: str) -> None:
    async with durable(data_dir, postgres_url) as (valkey, config), run_server(config) as server:
        gateway = Gateway(server, [await server.wallet(USD=1_000_000) for _ in range(4)])
        load = asyncio.create_task(gateway.run())
        for _ in range(2):
            await gateway.reaches(60)
            await asyncio.to_thread(valkey.kill)
            await asyncio.to_thread(valkey.start)
        await gateway.reaches(60)
        gateway.stop.set()
        await load
        assert gateway.retries > 0
        assert not server.task.done()
        async with open_audit(config) as audit:
            await gateway.assert_recorded(audit)
            epochs = {row.epoch for row in await audit.stores.ledger.read_partitions()}
        assert epochs == {1}, "nothing was lost, so nothing had to be rebuilt"


@pytest.fixture(params=["stopped", "killed"])
async def stop_postgres(
    request: pytest.FixtureRequest, postgres_process: PostgresProcess, worker_directory: Path
) -> AsyncIterator[tuple[PostgresProcess, str, Callable[[], None]]]:
    """A Postgres, the URL of an empty ledger in it, and how it ends. Only a durable one may be killed."""
    if request.param == "stopped":
        url = await postgres_process.create_database("stopped", template=stores.TEMPLATE_DATABASE)
        yield postgres_process, url, postgres_process.stop
        await postgres_process.drop_database("stopped")
        return
    async with PostgresProcess(worker_directory / "durable-postgres") as postgres:
        await migrate(postgres.url)
        yield postgres, postgres.url, postgres.kill


async def test_without_postgres_holds_go_on_and_the_backlog_is_recorded_afterwards(
    valkey_url: str,
    stop_postgres: tuple[PostgresProcess, str, Callable[[], None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    postgres, postgres_url, end = stop_postgres
    config = settings(valkey_url, postgres_url)
    async with run_server(config) as server:
        wallet = await server.wallet(USD=1000)
        await server.debits(await recorded_wallet(server), at_least=1)
        await asyncio.to_thread(end)
        try:
            for number in range(40):
                reply = await server.authorize(wallet, f"h{number}", USD=10)
                assert reply.decision == pb.DECISION_APPROVED
                if number % 4:
                    await server.commit(wallet, f"h{number}", USD=1 + number % 10)
                else:
                    await server.release(wallet, f"h{number}")
            for request in (
                pb.ReleaseRequest(wallet_id=wallet, hold_id="never-was"),  # only the ledger knows that it is none
                grant_request(wallet, "g", "USD", 1),
                pb.GetHoldRequest(wallet_id=wallet, hold_id="unknown"),
                authorize_request("not-loaded", "h", USD=1),
            ):
                assert_store_unavailable([await server.failure(request)], "postgres")
        finally:
            await asyncio.to_thread(postgres.start)

        async def granted() -> bool:
            try:
                return bool((await server.grant(wallet, "g", "USD", 1)).grant.units)
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                return False

        await until(granted)
        assert len(await server.debits(wallet, at_least=30)) == 30
        assert not server.task.done()
        # The pool's attempts are not each worth a traceback in the log.
        assert [record.getMessage() for record in caplog.records if record.name.startswith("asyncpg")] == []
        async with open_audit(config) as audit:
            await audit.assert_conserved(wallet)


async def recorded_wallet(server: Server) -> str:
    """A wallet with a debit that has reached the ledger, so that the flusher is known to work."""
    wallet = await server.wallet(USD=10)
    await server.authorize(wallet, "h", USD=10)
    await server.commit(wallet, "h", USD=10)
    return wallet


async def test_a_store_that_refuses_writes_does_not_end_the_server(config: Config) -> None:
    async with run_server(config) as server:
        wallet = await server.wallet(USD=100)
        await server.authorize(wallet, "h", USD=10)
        await server.debits(await recorded_wallet(server), at_least=1)
        client, ledger = server.audit.stores.nodes.of(0), server.audit.stores.ledger
        async with ledger._transaction() as blocker:
            # The flusher has read this commit and waits; once it may record it, Valkey refuses to trim.
            await blocker.execute("LOCK TABLE partitions IN ACCESS EXCLUSIVE MODE")
            await server.commit(wallet, "h", USD=7)
            # As a primary does that has lost its replicas, or whose disk is full.
            await client.config_set("min-replicas-to-write", 1)
        try:
            assert_store_unavailable(await fails_quickly(server, wallet, "h"), "valkey")
            await server.debits(wallet, at_least=1)
            await asyncio.wait([server.task], timeout=0.3)  # what fell would have fallen by now
            assert not server.task.done(), "the flusher must wait, not fall"
        finally:
            await client.config_set("min-replicas-to-write", 0)
        await server.authorize(wallet, "h2", USD=1)
        await server.commit(wallet, "h2", USD=1)
        await server.debits(wallet, at_least=2)
        await server.assert_conserved(wallet)


async def test_a_valkey_that_hangs_costs_no_file_descriptors(data_dir: Path, postgres_url: str) -> None:
    async with durable(data_dir, postgres_url) as (valkey, config), run_server(config) as server:
        wallet = await server.wallet(USD=100)
        with capture_logs() as logs:
            signal_valkey(valkey, signal.SIGSTOP)
            try:
                await server.failure(authorize_request(wallet, "h", USD=1))
                before = sockets_to(valkey.port)

                async def tried(times: int = 3) -> bool:
                    return sum(line["event"] == "valkey.connect_failed" for line in logs) >= times

                await until(tried)
                assert sockets_to(valkey.port) <= before + 1  # one attempt may be under way
            finally:
                signal_valkey(valkey, signal.SIGCONT)


def children(pid: int) -> list[int]:
    """Each session of Postgres has a process of its own."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


async def test_with_a_postgres_that_hangs_holds_go_on(config: Config, postgres_process: PostgresProcess) -> None:
    async with run_server(config) as server:
        wallet = await server.wallet(USD=100)
        processes = [postgres_process.pid, *children(postgres_process.pid)]
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        try:
            for number in range(10):
                assert (await server.authorize(wallet, f"h{number}", USD=5)).decision == pb.DECISION_APPROVED
                await server.commit(wallet, f"h{number}", USD=5)
            failure = await server.failure(grant_request(wallet, "g", "USD", 1), deadline_s=0.2)
            assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
        finally:
            for pid in processes:
                os.kill(pid, signal.SIGCONT)
        await server.grant(wallet, "g", "USD", 1)
        await server.debits(wallet, at_least=10)
        await server.assert_conserved(wallet)


async def test_a_grant_made_while_valkey_was_down_is_live_after_its_retry(data_dir: Path, postgres_url: str) -> None:
    async with durable(data_dir, postgres_url) as (valkey, config), run_server(config) as server:
        wallet = await server.wallet(USD=1)
        valkey.stop()
        assert_store_unavailable([await server.failure(grant_request(wallet, "g", "USD", 5))], "valkey")
        valkey.start()

        async def granted() -> grant_pb.CreateGrantResponse | None:
            try:
                return await server.grant(wallet, "g", "USD", 5)
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                return None

        reply = await until(granted)
        assert (reply.replayed, reply.balance.available_units) == (True, 6)
        async with open_audit(config) as audit:
            await audit.assert_conserved(wallet)
