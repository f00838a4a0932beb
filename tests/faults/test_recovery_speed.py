"""Fault 10 at size: Valkey loses everything under load, and serves again soon, wallet by wallet. Prints its numbers."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from typing import TYPE_CHECKING, Final, Literal

import grpc
import pytest

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown_server.config import PARTITIONS_DEFAULT
from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.holds import keys
from drawdown_server.holds.model import GrantSource
from drawdown_server.holds.nodes import OneNode
from drawdown_server.holds.startup import open_client
from drawdown_server.ledger import streams
from drawdown_server.ledger.reconcile import reconcile
from faults.processes import program
from integration.audit import open_audit
from integration.server import Rpc, authorize_request, commit_request, open_channel, settings, until

if TYPE_CHECKING:
    from pathlib import Path

    from google.protobuf.message import Message

    from drawdown_server.config import Config
    from drawdown_server.ledger.store import LedgerStore

VALKEY_TIMEOUT_MS: Final = 1_000
WORKERS: Final = 32
FUNDED: Final = 1_000_000
AT_ONCE: Final = 4
SERVING_WITHIN_S: Final = 30.0
"""A deadline for a loaded machine; the number that is printed is what counts."""

Loss = Literal["emptied", "restored from an older copy"]


class Load:
    """Gateways that touch random wallets and never give up."""

    def __init__(self, rpc: Rpc, wallets: list[str]) -> None:
        self.rpc, self.wallets = rpc, wallets
        self.stop = asyncio.Event()
        self.answered_s = 0.0
        """When the last call was answered; monotonic."""
        self.calls = 0
        self.dice = random.Random(3)  # noqa: S311

    async def run(self) -> None:
        await asyncio.gather(*(self._work(number) for number in range(WORKERS)))

    async def _work(self, worker: int) -> None:
        number = 0
        while not self.stop.is_set():
            number += 1
            await self.spend(self.dice.choice(self.wallets), f"{worker}-{number}")

    async def spend(self, wallet: str, hold_id: str) -> None:
        """Authorize and commit; a hold that was lost with its Valkey cannot be committed, and that is all."""
        reply: pb.AuthorizeResponse = await self._answer(authorize_request(wallet, hold_id, ttl_s=600, USD=3))
        assert reply.decision == pb.DECISION_APPROVED, reply.denial
        try:
            await self._answer(commit_request(wallet, hold_id, USD=2))
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.NOT_FOUND, error.details()

    async def _answer(self, request: Message) -> pb.AuthorizeResponse:
        while True:
            try:
                reply: pb.AuthorizeResponse = await self.rpc.call(request)
            except grpc.aio.AioRpcError as error:
                if error.code() not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                    raise
                await asyncio.sleep(0.02)
            else:
                self.answered_s = time.monotonic()
                self.calls += 1
                return reply


async def fund(ledger: LedgerStore, config: Config, wallets: list[str]) -> None:
    """Wallets with a grant each, as a migration would write them: past the server, which applies them on first use."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(wallet: str) -> None:
        async with room:
            partition = keys.partition_of(config.tenant, wallet, config.partitions)
            await ledger.create_wallet(config.tenant, wallet, partition, "", {})
            await ledger.create_grant(
                config.tenant,
                wallet,
                "g",
                asset="USD",
                units=FUNDED,
                priority=0,
                source=GrantSource.PURCHASE,
                effective_ms=0,
                expire_ms=0,
                labels={},
            )

    await asyncio.gather(*(one(wallet) for wallet in wallets))


async def touch_all(load: Load, name: str) -> float:
    """Spend once from every wallet; seconds."""
    started = time.monotonic()
    left = iter(load.wallets)

    async def worker() -> None:
        for wallet in left:
            await load.spend(wallet, name)

    await asyncio.gather(*(worker() for _ in range(2 * WORKERS)))
    return time.monotonic() - started


async def all_recorded(ledger: LedgerStore, valkey: ValkeyProcess) -> None:
    """Wait until Postgres has everything that Valkey has."""
    async with open_client(valkey.url, timeout_ms=5_000) as client:

        async def recorded() -> bool:
            rows = await ledger.read_partitions()
            infos = await streams.read_infos(OneNode(client), [keys.outbox(row.partition, row.epoch) for row in rows])
            return all(info.last_id == row.position for info, row in zip(infos, rows, strict=True))

        await until(recorded, timeout_s=120)


@pytest.mark.parametrize("loss", ["emptied", "restored from an older copy"])
@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.soak)])
async def test_10_a_valkey_that_loses_its_state_under_load_serves_again_soon_and_makes_no_money(
    postgres_url: str, directory: Path, loss: Loss, count: int
) -> None:
    async with ValkeyProcess(directory / "valkey") as valkey:
        config = settings(valkey.url, postgres_url, partitions=PARTITIONS_DEFAULT, valkey_timeout_ms=VALKEY_TIMEOUT_MS)
        async with program("serve", config, directory) as server, open_channel(await server.ready()) as channel:
            load = Load(Rpc(channel), [f"w{number}" for number in range(count)])
            await load.rpc.create_assets()
            async with open_audit(config) as audit:
                await fund(audit.stores.ledger, config, load.wallets)
                first_s = await touch_all(load, "first")
                working = asyncio.create_task(load.run())
                if loss == "restored from an older copy":
                    await asyncio.to_thread(shutil.copytree, valkey.directory / "data", directory / "copy")
                    goal = load.calls + 500

                    async def spent_more() -> bool:
                        return load.calls >= goal

                    await until(spent_more)
                    await asyncio.to_thread(valkey.kill)
                    shutil.rmtree(valkey.directory / "data")
                    (directory / "copy").rename(valkey.directory / "data")
                    await asyncio.to_thread(valkey.start)
                else:
                    await audit.stores.nodes.of(0).flushall()
                lost_s = time.monotonic()

                async def served() -> bool:
                    return load.answered_s > lost_s

                await until(served, timeout_s=SERVING_WITHIN_S)
                serving_s = load.answered_s - lost_s
                again_s = await touch_all(load, "again")
                load.stop.set()
                await working
                await all_recorded(audit.stores.ledger, valkey)
                report = await reconcile(audit, audit.stores.ledger, config.tenant, cut_timeout_s=30)
                assert report.differences == []
                epochs = {row.epoch for row in await audit.stores.ledger.read_partitions()}
                assert max(epochs) >= 2
                assert await audit.stores.ledger.list_dead_letters(limit=1) == []
    print(  # noqa: T201
        f"\nrecovery ({loss}, {count} wallets): first answer after {serving_s:.2f} s; a spend from every wallet took "
        f"{first_s:.2f} s before and {again_s:.2f} s ({count / again_s:.0f} wallets/s) while they loaded again"
    )
