"""Fault 14: Postgres is down for long. Spending that was approved goes on; past the limit new spending has to wait."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import grpc
import pytest

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown_server.holds import keys
from drawdown_server.ledger.reconcile import reconcile
from integration.server import Failure, amounts, authorize_request, run_server, settings, until

if TYPE_CHECKING:
    from drawdown_server.dev.postgres import PostgresProcess
    from integration.server import Server

LIMIT: Final = 200
HELD: Final = 1_000_000
WORKERS: Final = 8
RETRY_MS: Final = 1_000
"""Longer than for a store that cannot be reached (50 ms): Postgres must come back and record first."""


@dataclass
class Streamer:
    """A gateway that streams: it reports usage of one long hold again and again, and asks for new holds meanwhile."""

    server: Server
    wallet: str
    hold_id: str
    used: int = 0
    approved: int = 0
    refused: int = 0

    async def run(self, stop: asyncio.Event) -> None:
        await self.server.authorize(self.wallet, self.hold_id, ttl_s=600, USD=HELD)
        while not stop.is_set():
            self.used += 1
            await self.report(final=False)
            request = authorize_request(self.wallet, f"{self.hold_id}-{self.used}", ttl_s=600, USD=1)
            if await refused(self.server, request):
                self.refused += 1
            else:
                self.approved += 1

    async def report(self, *, final: bool) -> None:
        """Every Commit must be answered, whatever Postgres does."""
        request = pb.CommitRequest(
            wallet_id=self.wallet, hold_id=self.hold_id, amounts=amounts(USD=self.used), final=final
        )
        await self.server.call(request)


async def refused(server: Server, request: pb.AuthorizeRequest) -> bool:
    """Whether new spending was told to wait; any other failure is one."""
    try:
        await server.call(request)
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE, error.details()
        return True
    return False


def assert_backlog(failure: Failure) -> None:
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "LEDGER_BACKLOG")
    assert (failure.metadata, failure.retry_ms) == ({}, RETRY_MS)


@pytest.mark.parametrize("outage_s", [1, pytest.param(60, marks=pytest.mark.soak)])
async def test_while_postgres_is_down_new_holds_wait_past_the_limit_and_every_commit_is_answered(
    valkey_url: str, postgres_url: str, postgres_process: PostgresProcess, outage_s: int
) -> None:
    config = settings(valkey_url, postgres_url, outbox_backlog_limit=LIMIT)
    async with run_server(config) as server:
        wallet = await server.wallet(USD=WORKERS * HELD + 1_000_000)
        outbox = keys.outbox(keys.partition_of(config.tenant, wallet, config.partitions), 1)
        streamers = [Streamer(server, wallet, f"stream-{number}") for number in range(WORKERS)]
        stop = asyncio.Event()
        await asyncio.to_thread(postgres_process.stop)
        stopped_s = time.monotonic()
        try:
            async with asyncio.TaskGroup() as load:
                for streamer in streamers:
                    load.create_task(streamer.run(stop))

                async def shed() -> bool:
                    return all(streamer.refused for streamer in streamers) and time.monotonic() - stopped_s >= outage_s

                await until(shed, timeout_s=outage_s + 30)
                stop.set()
            assert sum(streamer.approved for streamer in streamers) > 0
            assert await server.audit.stores.nodes.of(0).xlen(outbox) > LIMIT
            assert_backlog(await server.failure(authorize_request(wallet, "new", USD=1)))
            assert_backlog(
                await server.failure(pb.ChargeRequest(wallet_id=wallet, charge_id="c", amounts=amounts(USD=1)))
            )
        finally:
            await asyncio.to_thread(postgres_process.start)

        async def approved() -> bool:
            return not await refused(server, authorize_request(wallet, "after", USD=1))

        await until(approved)
        for streamer in streamers:
            await streamer.report(final=True)
        assert not server.task.done()
        await server.assert_conserved(wallet)
        report = await reconcile(server.audit, server.audit.stores.ledger, config.tenant)
        assert (report.wallets, report.differences) == (1, [])
        debited = sum(entry.units for entry in await server.debits(wallet, at_least=WORKERS))
        assert debited == sum(streamer.used for streamer in streamers)
        assert await server.audit.stores.ledger.list_dead_letters(limit=1) == []
