"""Races and outages around the load of a wallet, and a seed that does not fit what is there."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import grpc

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import wallet_service_pb2 as wallet_pb
from drawdown_server.holds import keys
from drawdown_server.holds.messages import LoadedAsset, LoadRequest, PackedGrant
from drawdown_server.holds.model import GrantSource, OveragePolicy, WalletState
from drawdown_server.ledger.database import open_pool
from drawdown_server.ledger.recovery import open_partitions
from drawdown_server.ledger.store import LedgerStore
from faults.processes import environment
from integration.server import DEADLINE_S, PARTITIONS, WAIT_S, amounts, authorize_request, grant_request, run_server
from ledgers import make_flusher

if TYPE_CHECKING:
    import pytest

    from drawdown_server.config import Config
    from drawdown_server.dev.postgres import PostgresProcess
    from drawdown_server.ledger.rows import WalletSnapshot
    from drawdown_server.stores import Stores
    from integration.server import Server


async def begin_epoch(stores: Stores, partition: int, from_epoch: int) -> None:
    """What another server does that finds the partition's state lost."""
    assert await stores.ledger.bump_epoch(partition, from_epoch) == from_epoch + 1
    await open_partitions(stores.nodes, stores.ledger, PARTITIONS)


def wallet_key(config: Config, wallet: str, epoch: int) -> str:
    return keys.wallet_keys(keys.partition_of(config.tenant, wallet, PARTITIONS), epoch, config.tenant, wallet)[3]


async def spend(server: Server, wallet: str, hold_id: str, units: int) -> None:
    assert (await server.authorize(wallet, hold_id, USD=units)).decision == pb.DECISION_APPROVED
    await server.commit(wallet, hold_id, USD=units)


async def test_a_load_with_a_ticket_of_an_older_epoch_writes_nothing(config: Config) -> None:
    async with run_server(config) as server:
        wallet, stores = await server.wallet(), server.audit.stores
        partition = keys.partition_of(config.tenant, wallet, PARTITIONS)
        ticket = await stores.holds.ticket(config.tenant, wallet)
        grant = PackedGrant(
            grant_id="g",
            free=10,
            pinned=0,
            priority=0,
            expire_ms=0,
            source=GrantSource.PURCHASE,
            effective_ms=0,
            create_ms=0,
        )
        request = LoadRequest(
            tenant_id=config.tenant,
            wallet_id=wallet,
            ticket_ms=ticket.time_ms,
            state=WalletState.ACTIVE,
            sequence=0,
            change_number=0,
            assets=[LoadedAsset(asset="USD", debt=0, overdraft_limit=0, grants=[grant], scheduled=[])],
            caps=[],
            cap_usage=[],
            changes=[],
        )
        await begin_epoch(stores, partition, ticket.epoch)
        assert (await stores.holds.load(request, ticket)).status == "STALE_EPOCH"
        assert await stores.nodes.of(0).keys(f"*{wallet}*") == []
        # It has learned the epoch by now; the old ticket is as old as before.
        assert (await stores.holds.ticket(config.tenant, wallet)).epoch == ticket.epoch + 1
        assert (await stores.holds.load(request, ticket)).status == "STALE_EPOCH"
        assert await stores.nodes.of(0).keys(f"*{wallet}*") == []


async def test_a_load_during_which_a_new_epoch_begins_reads_postgres_again(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_server(config) as server:
        wallet, stores = await server.wallet(USD=100), server.audit.stores
        partition = keys.partition_of(config.tenant, wallet, PARTITIONS)
        await spend(server, wallet, "h1", 10)
        await server.assert_conserved(wallet)
        await begin_epoch(stores, partition, 1)  # from here on the wallet is not in Valkey
        read, reads = LedgerStore.load_wallet, 0

        async def begin_epoch_after_first(ledger: LedgerStore, tenant_id: str, wallet_id: str) -> WalletSnapshot | None:
            nonlocal reads
            reads += 1
            snapshot = await read(ledger, tenant_id, wallet_id)
            if reads == 1:
                await begin_epoch(stores, partition, 2)
            return snapshot

        monkeypatch.setattr(LedgerStore, "load_wallet", begin_epoch_after_first)
        assert (await server.balance(wallet)).available_units == 90
        assert reads == 2
        assert await stores.nodes.of(0).exists(wallet_key(config, wallet, 2)) == 0
        assert await stores.nodes.of(0).exists(wallet_key(config, wallet, 3)) == 1
        await spend(server, wallet, "h2", 90)
        await server.debits(wallet, at_least=2)
        await server.assert_conserved(wallet)


async def test_a_grant_made_while_the_wallet_is_still_being_looked_up_finds_it(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_server(config) as server:
        looked_up, go_on = asyncio.Event(), asyncio.Event()
        read = LedgerStore.load_wallet

        async def slow_before_it_exists(ledger: LedgerStore, tenant_id: str, wallet_id: str) -> WalletSnapshot | None:
            snapshot = await read(ledger, tenant_id, wallet_id)
            if snapshot is None:
                looked_up.set()
                await go_on.wait()
            return snapshot

        monkeypatch.setattr(LedgerStore, "load_wallet", slow_before_it_exists)
        early = [asyncio.create_task(server.authorize("new", f"early{i}", USD=1)) for i in range(4)]
        async with asyncio.timeout(WAIT_S):
            await looked_up.wait()
        try:
            await server.call(wallet_pb.CreateWalletRequest(wallet_id="new"))
            granted = await server.call(grant_request("new", "g", "USD", 10))
            assert granted.balance.available_units == 10
            assert (await server.authorize("new", "h", USD=4)).decision == pb.DECISION_APPROVED
        finally:
            go_on.set()
        for reply in await asyncio.gather(*early):
            assert reply.denial.reason == pb.DENIAL_REASON_WALLET_NOT_FOUND
        # What was looked up before the wallet was there is not remembered either.
        assert (await server.authorize("new", "h2", USD=6)).decision == pb.DECISION_APPROVED
        await server.assert_conserved("new")


async def test_holds_in_assets_that_a_server_has_not_seen_go_on_without_postgres(
    config: Config, postgres_process: PostgresProcess
) -> None:
    async with run_server(config) as first, run_server(config, assets=False) as server:
        wallet = await first.wallet(USD=100)
        await first.assert_conserved(wallet)
        await asyncio.to_thread(postgres_process.stop)
        try:
            assert (await server.authorize(wallet, "h", USD=10)).decision == pb.DECISION_APPROVED
            for asset in ("EUR", "NONE"):  # one that is not in this wallet, one that is nowhere
                denied = await server.call(authorize_request(wallet, f"h-{asset}", **{asset: 1}))
                assert denied.decision == pb.DECISION_DENIED
                assert denied.denial.reason == pb.DENIAL_REASON_INSUFFICIENT_FUNDS
                assert (denied.denial.asset, denied.denial.available_units) == (asset, 0)
            failure = await server.failure(grant_request(wallet, "g", "USD", 1))
            assert failure.code is grpc.StatusCode.UNAVAILABLE
            await server.commit(wallet, "h", USD=10)
        finally:
            await asyncio.to_thread(postgres_process.start)
        await server.debits(wallet, at_least=1)
        await first.assert_conserved(wallet)


async def test_dev_on_stores_that_its_seed_does_not_fit_says_so_in_one_line(config: Config) -> None:
    async with open_pool(config) as pool:
        await LedgerStore(pool).create_asset(config.tenant, "USD", 2, "US dollar", OveragePolicy.CHARGE_AVAILABLE)
    command = [sys.executable, "-m", "drawdown_server", "dev", "--grpc-port", "0"]
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        env=environment(config),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "[warning" not in line]
    assert line.startswith("error: cannot seed: ")
    assert "USD" in line
    assert "scale" in line
    assert "--fresh" in line
    assert "Drawdown serves on" not in done.stdout


async def test_a_grant_that_was_revived_and_used_up_again_before_the_ledger_knew_is_refunded(config: Config) -> None:
    """Postgres still has nothing left of it, and does not know yet that the second hold was paid by it."""
    async with run_server(config.model_copy(update={"flusher": False})) as server:
        wallet, stores = await server.wallet(USD=10), server.audit.stores
        await spend(server, wallet, "first", 10)
        flusher = make_flusher(stores.nodes.of(0), stores.ledger)
        assert await flusher.run_once()
        assert (await stores.ledger.unspent_grants(config.tenant, wallet)) == []
        await server.call(refund_request(wallet, "first", USD=10))
        await spend(server, wallet, "second", 10)
        reply = await server.call(refund_request(wallet, "second", USD=4))
        assert reply.balances[0].available_units == 4
        assert await flusher.run_once()
        assert await flusher.drain(DEADLINE_S)
        await server.assert_conserved(wallet)


def refund_request(wallet: str, hold_id: str, **units: int) -> pb.RefundRequest:
    return pb.RefundRequest(wallet_id=wallet, hold_id=hold_id, refund_id=f"{hold_id}-back", amounts=amounts(**units))
