"""Money in: Postgres first, then Valkey, and what happens when a server dies between the two. And how wallets load."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from drawdown.v1 import asset_service_pb2 as asset_pb
from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import balance_service_pb2 as balance_pb
from drawdown.v1 import types_pb2
from drawdown.v1 import wallet_service_pb2 as wallet_pb
from drawdown_server.errors import StoreUnavailableError
from drawdown_server.holds import keys
from drawdown_server.holds.model import GrantSource, WalletState
from drawdown_server.ledger.store import LedgerStore
from drawdown_server.wallets import changes
from idle import be_of_another_version, forget
from integration.server import authorize_request, grant_request, run_server, until

if TYPE_CHECKING:
    from drawdown_server.config import Config
    from drawdown_server.ledger.rows import GrantRow
    from integration.server import Server


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def record_grant(server: Server, wallet: str, grant_id: str, units: int) -> GrantRow:
    """What a server leaves behind that dies after Postgres has the grant and before Valkey has it."""
    row, created = await server.audit.stores.ledger.create_grant(
        server.config.tenant,
        wallet,
        grant_id,
        asset="USD",
        units=units,
        priority=50,
        source=GrantSource.PURCHASE,
        effective_ms=0,
        expire_ms=0,
        labels={},
    )
    assert created
    return row


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the server asked Postgres for what, by method of LedgerStore."""
    counts: Counter[str] = Counter()
    for name in ("load_wallet", "pending_changes", "get_wallet", "get_asset", "get_settled_hold"):
        original: Any = getattr(LedgerStore, name)

        def counting(self: LedgerStore, *args: Any, _name: str = name, _original: Any = original, **kwargs: Any) -> Any:  # noqa: ANN401
            counts[_name] += 1
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(LedgerStore, name, counting)
    return counts


async def test_a_recorded_grant_becomes_live_by_the_watch_for_abandoned_changes(
    shared_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "RUN_INTERVAL_S", 0.02)
    monkeypatch.setattr(changes.ChangeApplier.run_once, "__defaults__", (0.0,))
    async with run_server(shared_config) as server:
        wallet = await server.wallet(USD=1)
        await record_grant(server, wallet, "lost", 10)

        async def live() -> bool:
            return (await server.balance(wallet)).available_units == 11

        await until(live)
        await server.assert_conserved(wallet)


async def test_a_wallet_whose_changes_cannot_be_applied_keeps_those_of_no_other_back(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drawdown_server.wallets.changes.WALLETS_PER_RUN", 1)  # it alone fills a round
    refused, other = await server.wallet(USD=100), await server.wallet(USD=100)
    await server.audit.assert_conserved(refused, other)
    for wallet in (refused, other):
        await record_grant(server, wallet, "left", 5)
    stores, tenant = server.audit.stores, server.config.tenant
    partition = keys.partition_of(tenant, refused, server.config.partitions)
    name = keys.wallet_keys(partition, 1, tenant, refused)[keys.WALLET]
    await be_of_another_version(stores.nodes.of(partition), name)
    applier = changes.ChangeApplier(stores.holds, stores.ledger)
    with pytest.raises(StoreUnavailableError):
        await applier.run_once(0.0)
    assert await applier.run_once(0.0) == 1
    reading = await stores.holds.read(tenant, other)
    assert [balance.settled for balance in reading.balances] == [105]
    await forget(stores, tenant, refused)
    assert (await server.balance(refused)).available_units == 105
    await server.assert_conserved(refused, other)


async def test_a_recorded_grant_becomes_live_by_the_next_grant(server: Server) -> None:
    wallet = await server.wallet(USD=1)
    await record_grant(server, wallet, "lost", 10)
    assert (await server.balance(wallet)).available_units == 1
    assert (await server.grant(wallet, "next", "USD", 100)).balance.available_units == 111
    await server.assert_conserved(wallet)


async def test_a_recorded_grant_becomes_live_by_its_own_retry(server: Server) -> None:
    wallet = await server.wallet(USD=1)
    await record_grant(server, wallet, "lost", 10)
    reply = await server.grant(wallet, "lost", "USD", 10)
    assert (reply.replayed, reply.balance.available_units) == (True, 11)
    await server.assert_conserved(wallet)


async def test_recorded_changes_become_live_by_loading_the_wallet(server: Server) -> None:
    wallet = await server.wallet()
    for number in range(3):
        await record_grant(server, wallet, f"lost{number}", 10)
    assert (await server.authorize(wallet, "h", USD=30)).decision == pb.DECISION_APPROVED
    assert (await server.call(balance_pb.GetBalanceRequest(wallet_id=wallet))).wallet_sequence == 3
    await server.assert_conserved(wallet)


async def test_a_recorded_freeze_holds_by_its_retry_by_the_next_change_and_by_loading(server: Server) -> None:
    loaded = await server.wallet(USD=1)
    other = await server.wallet(USD=1)
    unloaded = await server.wallet()
    ledger = server.audit.stores.ledger
    for wallet in (loaded, other, unloaded):
        await ledger.set_wallet_state(server.config.tenant, wallet, WalletState.FROZEN, "fraud")
    await server.call(wallet_pb.FreezeWalletRequest(wallet_id=loaded))
    await server.grant(other, "next", "USD", 1)
    for wallet in (loaded, other, unloaded):
        denied = await server.authorize(wallet, "h", USD=1)
        assert denied.denial.reason == pb.DENIAL_REASON_WALLET_FROZEN, wallet
    await server.assert_conserved(loaded, other, unloaded)


async def test_changes_are_applied_in_the_order_in_which_they_were_recorded(server: Server) -> None:
    wallet = await server.wallet(USD=1)
    ledger = server.audit.stores.ledger
    await ledger.set_wallet_state(server.config.tenant, wallet, WalletState.FROZEN, "")
    await record_grant(server, wallet, "lost", 10)
    await ledger.set_wallet_state(server.config.tenant, wallet, WalletState.ACTIVE, "")
    await server.grant(wallet, "next", "USD", 100)
    reply = await server.call(balance_pb.GetBalanceRequest(wallet_id=wallet))
    assert (reply.state, reply.wallet_sequence) == (types_pb2.WALLET_STATE_ACTIVE, 5)
    assert (await server.authorize(wallet, "h", USD=111)).decision == pb.DECISION_APPROVED
    await server.assert_conserved(wallet)


async def evict(server: Server, wallet: str) -> None:
    """Take a wallet out of Valkey that is in the ledger with all it has."""
    config = server.config
    partition = keys.partition_of(config.tenant, wallet, config.partitions)
    await server.audit.stores.nodes.of(0).delete(*keys.wallet_keys(partition, 1, config.tenant, wallet)[3:])


async def test_many_first_calls_load_a_wallet_once_and_later_ones_ask_postgres_nothing(
    server: Server, counted: Counter[str]
) -> None:
    wallet = await server.wallet(USD=1000)
    await server.assert_conserved(wallet)
    await evict(server, wallet)
    counted.clear()
    replies = await asyncio.gather(*(server.authorize(wallet, f"h{n}", USD=1) for n in range(100)))
    assert {reply.decision for reply in replies} == {pb.DECISION_APPROVED}
    assert counted["load_wallet"] == 1
    counted.clear()
    for number in range(10):
        await server.commit(wallet, f"h{number}", USD=1)
        await server.authorize(wallet, f"again{number}", USD=1)
        await server.release(wallet, f"again{number}")
    assert not counted
    await server.assert_conserved(wallet)


async def test_a_wallet_is_not_served_before_its_recorded_changes_are_applied(
    shared_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, go_on = asyncio.Event(), asyncio.Event()
    original = changes.ChangeApplier.apply_all

    async def slowly(self: changes.ChangeApplier, tenant_id: str, wallet_id: str, after_change_number: int) -> None:
        loaded.set()
        await go_on.wait()
        await original(self, tenant_id, wallet_id, after_change_number)

    async with run_server(shared_config) as server:
        frozen, funded = await server.wallet(), await server.wallet()
        await record_grant(server, frozen, "g", 10)
        await server.audit.stores.ledger.set_wallet_state(shared_config.tenant, frozen, WalletState.FROZEN, "fraud")
        await record_grant(server, funded, "g", 10)
        monkeypatch.setattr(changes.ChangeApplier, "apply_all", slowly)
        first = asyncio.create_task(server.authorize(funded, "first", USD=1))
        await asyncio.wait([first, asyncio.create_task(loaded.wait())], return_when=asyncio.FIRST_COMPLETED)
        second = asyncio.create_task(server.authorize(funded, "second", USD=1))
        await asyncio.wait([second], timeout=0.2)  # it may wait for the changes, but must not be answered without
        go_on.set()
        assert {reply.decision for reply in await asyncio.gather(first, second)} == {pb.DECISION_APPROVED}
        denied = await server.authorize(frozen, "h", USD=1)
        assert denied.denial.reason == pb.DENIAL_REASON_WALLET_FROZEN
        await server.assert_conserved(frozen, funded)


async def test_an_unknown_wallet_costs_one_query_and_is_then_remembered(
    shared_config: Config, counted: Counter[str]
) -> None:
    async with run_server(shared_config.model_copy(update={"unknown_wallet_ttl_ms": 60_000})) as server:
        assert (await server.authorize("nobody", "warm", USD=1)).decision == pb.DECISION_DENIED
        counted.clear()
        replies = await asyncio.gather(*(server.authorize("ghost", f"h{n}", USD=1) for n in range(50)))
        replies.append(await server.authorize("ghost", "again", USD=1))
        assert {reply.denial.reason for reply in replies} == {pb.DENIAL_REASON_WALLET_NOT_FOUND}
        assert counted == {"load_wallet": 1}
        # Created by this server: known at once, although it was remembered as unknown.
        await server.wallet("ghost", USD=5)
        assert (await server.authorize("ghost", "h", USD=5)).decision == pb.DECISION_APPROVED
        await server.assert_conserved("ghost")


async def test_a_wallet_created_by_another_server_is_found_a_moment_later(shared_config: Config) -> None:
    async with (
        run_server(shared_config.model_copy(update={"unknown_wallet_ttl_ms": 50})) as here,
        run_server(shared_config) as there,
    ):
        assert (await here.authorize("w", "h", USD=1)).denial.reason == pb.DENIAL_REASON_WALLET_NOT_FOUND
        await there.wallet("w", USD=5)

        async def approved() -> bool:
            return (await here.authorize("w", "h", USD=5)).decision == pb.DECISION_APPROVED

        await until(approved)
        await here.assert_conserved("w")


async def test_money_in_is_never_answered_with_not_found_once_it_is_recorded(shared_config: Config) -> None:
    slow_to_learn = shared_config.model_copy(update={"unknown_wallet_ttl_ms": 60_000})
    async with run_server(slow_to_learn) as here, run_server(shared_config) as there:
        for wallet in ("granted", "frozen"):
            assert (await here.authorize(wallet, "h", USD=1)).denial.reason == pb.DENIAL_REASON_WALLET_NOT_FOUND
            await there.wallet(wallet)
        # Postgres knows both wallets, so both calls succeed there, and must be answered so.
        reply = await here.grant("granted", "g", "USD", 5)
        assert reply.balance.available_units == 5
        await here.call(wallet_pb.FreezeWalletRequest(wallet_id="frozen"))
        await here.assert_conserved("granted", "frozen")


async def test_an_asset_created_by_another_server_is_found_a_moment_later(shared_config: Config) -> None:
    async with run_server(shared_config) as here, run_server(shared_config) as there:
        wallet = await here.wallet(USD=1)
        assert (await here.authorize(wallet, "h", NEW=1)).denial.reason == pb.DENIAL_REASON_ASSET_NOT_FOUND
        await there.call(asset_pb.CreateAssetRequest(asset="NEW"))
        await there.grant(wallet, "g", "NEW", 1)

        async def approved() -> bool:
            return (await here.authorize(wallet, "h", NEW=1)).decision == pb.DECISION_APPROVED

        await until(approved)
        await here.assert_conserved(wallet)


async def test_two_servers_share_every_wallet(shared_config: Config) -> None:
    async with run_server(shared_config) as one, run_server(shared_config) as two:
        wallet = await one.wallet(USD=50)
        servers = [one, two]
        replies = await asyncio.gather(*(servers[n % 2].authorize(wallet, f"h{n}", USD=1) for n in range(100)))
        assert sum(reply.decision == pb.DECISION_APPROVED for reply in replies) == 50
        approved = [reply.hold.hold_id for reply in replies if reply.decision == pb.DECISION_APPROVED]
        commits = await asyncio.gather(
            *(servers[n % 2].commit(wallet, hold_id, USD=1) for n, hold_id in enumerate(approved * 2))
        )
        assert sum(not commit.replayed for commit in commits) == 50
        await asyncio.gather(*(servers[n % 2].grant(wallet, f"g{n % 10}", "USD", 1) for n in range(40)))
        assert (await two.balance(wallet)).available_units == 10
        await one.assert_conserved(wallet)


async def test_a_wallet_loads_back_from_the_ledger_as_it_was(server: Server) -> None:
    wallet = await server.wallet(USD=100, EUR=7)
    await server.authorize(wallet, "h1", USD=60)
    await server.commit(wallet, "h1", USD=42)
    await server.debits(wallet, at_least=1)
    before = await server.call(balance_pb.GetBalanceRequest(wallet_id=wallet, include_grants=True))
    await evict(server, wallet)
    assert await server.call(balance_pb.GetBalanceRequest(wallet_id=wallet, include_grants=True)) == before
    assert (await server.authorize(wallet, "h2", USD=58)).decision == pb.DECISION_APPROVED
    assert (await server.commit(wallet, "h1", USD=42)).replayed
    await server.assert_conserved(wallet)


async def test_a_wallet_that_does_not_exist_takes_no_grant(server: Server) -> None:
    failure = await server.failure(grant_request("nobody", "g", "USD", 1))
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "WALLET_NOT_FOUND")
    assert (await server.call(authorize_request("nobody", "h", USD=1))).decision == pb.DECISION_DENIED
