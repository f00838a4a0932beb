"""Flushers on bad days (faults 13, 15, 16, 17): nothing is lost, nothing is done twice."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from drawdown_server.dev.postgres import PostgresProcess
from drawdown_server.holds import keys
from drawdown_server.ledger.events import Line, LineKind, encode
from drawdown_server.ledger.migrations import migrate
from drawdown_server.ledger.reconcile import reconcile
from faults.gateway import Gateway
from faults.processes import Program
from faults.tcp_proxy import TcpProxy
from integration.server import run_server, settings, until
from ledgers import commit_event

if TYPE_CHECKING:
    from pathlib import Path

    from drawdown_server.config import Config
    from drawdown_server.dev.valkey import ValkeyProcess
    from integration.server import Server

KILLS = 3
SLEEPS = 3
COMMITS = 40
"""Acknowledged between two blows."""


async def owner_pid(server: Server) -> int:
    """The process that owns the leases now; 0 = nobody."""
    async with server.audit.stores.ledger._connection() as connection:
        owner = await connection.fetchval(
            "SELECT lease_owner FROM partitions WHERE lease_owner <> '' AND lease_expire_time > now() LIMIT 1"
        )
    return int(owner.split(":")[1]) if owner else 0


async def test_13_kill_9_of_postgres_in_the_middle_of_flushes_leaves_the_ledger_balanced(
    valkey_url: str, directory: Path
) -> None:
    async with PostgresProcess(directory / "postgres") as postgres:
        await migrate(postgres.url)
        async with run_server(settings(valkey_url, postgres.url)) as server:
            gateway = Gateway(server, [await server.wallet(USD=1_000_000) for _ in range(4)])
            load = asyncio.create_task(gateway.run())
            for _ in range(KILLS):
                await gateway.reaches(COMMITS)
                await asyncio.to_thread(postgres.kill)
                await gateway.reaches(COMMITS)
                await asyncio.to_thread(postgres.start)
            await gateway.reaches(COMMITS)
            gateway.stop.set()
            await load
            assert not server.task.done()
            await gateway.assert_recorded(server.audit)


async def test_15_a_flusher_that_dies_between_its_commit_and_its_trim_records_nothing_twice(
    valkey_server: ValkeyProcess, postgres_url: str, directory: Path
) -> None:
    config = settings(valkey_server.url, postgres_url, flusher=False)
    async with TcpProxy(valkey_server.port) as proxy, run_server(config) as server:
        flusher = Program("flush", config.model_copy(update={"valkey_url": proxy.url}), directory)
        try:
            await flusher.start()
            wallet = await server.wallet(USD=100)
            outbox = keys.outbox(keys.partition_of(config.tenant, wallet, config.partitions), 1)
            await spend(server, wallet, "first", 10)
            await server.debits(wallet, at_least=1)
            proxy.lose(b"XTRIM", "silence", "requests")
            await spend(server, wallet, "second", 20)
            await server.debits(wallet, at_least=2)
            await asyncio.wait_for(proxy.lost.wait(), 20)
            flusher.kill()
            assert await server.audit.stores.nodes.of(0).xlen(outbox) > 1, "recorded, and not trimmed"
            await flusher.start()

            async def trimmed() -> bool:
                return bool(await server.audit.stores.nodes.of(0).xlen(outbox) == 1)

            await until(trimmed)
        finally:
            flusher.close()
        assert [entry.units for entry in await server.debits(wallet, at_least=2)] == [10, 20]
        await server.assert_conserved(wallet)


async def test_16_a_flusher_that_sleeps_through_its_lease_records_nothing_afterwards(
    config: Config, directory: Path
) -> None:
    # A flusher that is stopped in a transaction keeps its partitions for twice as long as a statement may take.
    alone = config.model_copy(update={"flusher": False, "postgres_timeout_ms": 2_000})
    async with run_server(alone) as server:
        flushers = [Program("flush", alone, directory) for _ in range(2)]
        try:
            await asyncio.gather(*(flusher.start() for flusher in flushers))
            gateway = Gateway(server, [await server.wallet(USD=1_000_000) for _ in range(4)])
            load = asyncio.create_task(gateway.run())
            for _ in range(SLEEPS):
                await gateway.reaches(COMMITS)
                asleep = await until(lambda: owner_pid(server))
                sleeper = next(flusher for flusher in flushers if flusher.process.pid == asleep)
                sleeper.send(signal.SIGSTOP)

                async def taken_over(asleep: int = asleep) -> bool:
                    return await owner_pid(server) not in (0, asleep)

                await until(taken_over)
                await gateway.reaches(COMMITS)
                sleeper.send(signal.SIGCONT)
            gateway.stop.set()
            await load
            await gateway.assert_recorded(server.audit)
            assert [flusher.process.poll() for flusher in flushers] == [None, None]
        finally:
            for flusher in flushers:
                flusher.close()


async def test_17_poison_goes_to_dead_letters_and_everything_else_flows(config: Config) -> None:
    async with run_server(config) as server:
        wallet, other = await server.wallet(USD=100), await server.wallet(USD=100)
        client = server.audit.stores.nodes.of(0)
        await spend(server, wallet, "before", 10)
        await server.debits(wallet, at_least=1)
        for name in (wallet, other):
            outbox = keys.outbox(keys.partition_of(config.tenant, name, config.partitions), 1)
            lines = [Line(LineKind.DEBIT, "USD", 7, "no-such-grant")]
            await client.xadd(outbox, {"e": b"\xc1 no event"})
            await client.xadd(outbox, {"e": encode(commit_event("nobody", 1, lines, tenant_id=config.tenant))})
        for name in (wallet, other):
            await spend(server, name, "after", 20)
        assert [entry.units for entry in await server.debits(wallet, at_least=2)] == [10, 20]
        assert [entry.units for entry in await server.debits(other, at_least=1)] == [20]
        letters = await server.audit.stores.ledger.list_dead_letters(limit=10)
        assert sorted(letter.wallet_id for letter in letters) == ["", "", "nobody", "nobody"]
        await server.assert_conserved(wallet, other)
        outbox = keys.outbox(keys.partition_of(config.tenant, wallet, config.partitions), 1)
        lines = [Line(LineKind.DEBIT, "USD", 7, "no-such-grant")]
        await client.xadd(outbox, {"e": encode(commit_event(wallet, 9, lines, tenant_id=config.tenant))})

        async def kept() -> bool:
            return len(await server.audit.stores.ledger.list_dead_letters(limit=10)) == 5

        await until(kept)
        report = await reconcile(server.audit, server.audit.stores.ledger, config.tenant, cut_timeout_s=0.5)
        assert {difference.wallet_id for difference in report.differences} == {wallet}
        assert any("could not be recorded" in difference.what for difference in report.differences)


async def spend(server: Server, wallet: str, hold_id: str, units: int) -> None:
    await server.authorize(wallet, hold_id, USD=units)
    await server.commit(wallet, hold_id, USD=units)
