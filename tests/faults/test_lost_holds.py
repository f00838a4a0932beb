"""Valkey loses the hold between Authorize and Commit: its token charges it, late and exactly once, or is refused."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Any, Final

import grpc
import msgspec
import pytest

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import types_pb2
from drawdown_server.config import new_token_key, token_secrets
from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.holds import keys
from drawdown_server.holds.token import TOKEN_LIFE_MS, TokenKeys
from drawdown_server.ledger.store import LedgerStore
from faults.processes import program
from faults.tcp_proxy import TcpProxy
from integration.server import (
    PARTITIONS,
    Rpc,
    authorize_request,
    commit_request,
    failure_of,
    open_channel,
    run_server,
    settings,
    until,
)

if TYPE_CHECKING:
    from pathlib import Path

    from drawdown_server.config import Config
    from drawdown_server.dev.postgres import PostgresProcess
    from drawdown_server.ledger.events import Event
    from faults.tcp_proxy import Loss
    from integration.server import Failure, Server

KEY: Final = new_token_key()
VALKEY_TIMEOUT_MS: Final = 500
RACERS: Final = 20


@pytest.fixture
def config(valkey_url: str, postgres_url: str) -> Config:
    """Settings of a server on empty stores, which signs its holds."""
    return settings(valkey_url, postgres_url, hold_token_keys=KEY)


def by_token(hold: types_pb2.Hold, *, final: bool = True, **units: int) -> pb.CommitRequest:
    """The Commit of a hold, with its token."""
    request = commit_request(hold.wallet_id, hold.hold_id, **units)
    request.hold_token = hold.hold_token
    if not final:
        request.final = False
    return request


async def held(server: Rpc, wallet: str, hold_id: str = "h", **units: int) -> types_pb2.Hold:
    """An approved hold."""
    reply = await server.authorize(wallet, hold_id, **units)
    assert reply.decision == pb.DECISION_APPROVED
    assert reply.hold.hold_token
    return reply.hold


async def lose_everything(server: Server) -> None:
    """Valkey is empty; what was recorded is in the ledger."""
    await server.audit.stores.nodes.of(0).flushall()


async def lose_meta(server: Server, wallet: str) -> None:
    """The partition's state is lost, but for its outbox."""
    partition = keys.partition_of(server.config.tenant, wallet, PARTITIONS)
    await server.audit.stores.nodes.of(0).delete(keys.meta(partition))


async def answered(server: Rpc, request: Any) -> Any:  # noqa: ANN401 - any request
    """Send a request until it is answered, as a client does."""

    async def answer() -> Any:  # noqa: ANN401
        try:
            return await server.call(request)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return None

    return await until(answer)


async def refused(server: Rpc, request: Any) -> Failure:  # noqa: ANN401 - any request
    """How a request fails once the stores can be reached."""

    async def failure() -> Failure | None:
        found = await failure_of(server.call(request))
        return None if found.code is grpc.StatusCode.UNAVAILABLE else found

    found: Failure = await until(failure)
    return found


async def debited(server: Server, wallet: str) -> list[tuple[str, int]]:
    """(hold, units) of every debit that the ledger has, once it has everything."""
    await server.assert_conserved(wallet)
    entries = await server.entries(wallet)
    return [(entry.hold_id, entry.units) for entry in entries if entry.kind == types_pb2.ENTRY_KIND_DEBIT]


async def test_every_hold_that_was_open_is_charged_once_by_its_token(config: Config) -> None:
    async with run_server(config) as server:
        wallets = [await server.wallet(USD=100, TOKENS=1000) for _ in range(4)]
        holds = [await held(server, wallet, f"h{n}", USD=10, TOKENS=50) for wallet in wallets for n in range(5)]
        for wallet in wallets:
            await server.assert_conserved(wallet)
        await lose_everything(server)
        replies = await asyncio.gather(*(answered(server, by_token(hold, USD=7, TOKENS=50)) for hold in holds))
        for hold, reply in zip(holds, replies, strict=True):
            assert (reply.hold.hold_id, reply.late, reply.replayed) == (hold.hold_id, True, False)
            assert reply.hold.state == types_pb2.HOLD_STATE_COMMITTED
            assert (reply.hold.create_time, reply.hold.expire_time) == (hold.create_time, hold.expire_time)
            assert {amount.asset: amount.units for amount in reply.debited} == {"USD": 7, "TOKENS": 50}
        for hold in holds:
            assert (await server.call(by_token(hold, USD=7, TOKENS=50))).replayed
            assert (await server.commit(hold.wallet_id, hold.hold_id, USD=7, TOKENS=50)).replayed
        for wallet in wallets:
            assert sorted(await debited(server, wallet)) == sorted((f"h{n}", u) for n in range(5) for u in (7, 50))
        assert {row.epoch for row in await server.audit.stores.ledger.read_partitions()} == {2}


async def test_many_commits_by_one_token_make_one_debit(config: Config) -> None:
    async with run_server(config) as server, run_server(config, assets=False) as other:
        wallet = await server.wallet(USD=100)
        hold = await held(server, wallet, USD=10)
        await server.assert_conserved(wallet)
        await lose_everything(server)
        racing = [answered((server, other)[n % 2], by_token(hold, USD=7)) for n in range(RACERS)]
        replies = await asyncio.gather(*racing)
        assert [reply.replayed for reply in replies].count(False) == 1
        assert {reply.wallet_sequence for reply in replies} == {2}
        assert await debited(server, wallet) == [("h", 7)]


async def test_other_totals_by_the_same_token_are_refused(config: Config) -> None:
    async with run_server(config) as server:
        wallet = await server.wallet(USD=100)
        hold = await held(server, wallet, USD=10)
        await server.assert_conserved(wallet)
        await lose_everything(server)
        await answered(server, by_token(hold, USD=7))
        assert (await refused(server, by_token(hold, USD=8))).reason == "HOLD_COMMITTED"
        replay = await server.authorize(wallet, "h", USD=10)
        assert (replay.replayed, replay.hold.state) == (True, types_pb2.HOLD_STATE_COMMITTED)
        assert await debited(server, wallet) == [("h", 7)]


async def test_a_lost_hold_obeys_its_overage_policy(config: Config) -> None:
    async with run_server(config) as server:
        wallet = await server.wallet(USD=100)
        holds = {}
        for policy in ("REJECT", "CHARGE_AVAILABLE", "CHARGE_FULL"):
            request = authorize_request(wallet, policy, USD=10)
            request.overage_policy = types_pb2.OveragePolicy.Value(f"OVERAGE_POLICY_{policy}")
            holds[policy] = (await server.call(request)).hold
        await server.assert_conserved(wallet)
        await lose_everything(server)
        failure = await refused(server, by_token(holds["REJECT"], USD=11))
        assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "EXCEEDS_HOLD")
        assert [(a.units) for a in (await answered(server, by_token(holds["REJECT"], USD=10))).debited] == [10]
        reply = await answered(server, by_token(holds["CHARGE_AVAILABLE"], USD=95))
        assert ([a.units for a in reply.debited], [a.units for a in reply.uncollected]) == ([90], [5])
        assert (await answered(server, by_token(holds["CHARGE_FULL"], USD=15))).balances[0].debt_units == 15
        assert await debited(server, wallet) == [("REJECT", 10), ("CHARGE_AVAILABLE", 90), ("CHARGE_FULL", 15)]


async def test_what_was_recorded_before_the_loss_is_answered_by_the_ledger(config: Config) -> None:
    async with run_server(config) as server:
        wallet = await server.wallet(USD=100)
        hold = await held(server, wallet, USD=10)
        await server.call(by_token(hold, USD=7))
        await server.assert_conserved(wallet)
        await lose_everything(server)
        reply = await answered(server, by_token(hold, USD=7))
        assert (reply.replayed, reply.late, reply.wallet_sequence) == (True, False, 2)
        assert (await refused(server, by_token(hold, USD=8))).reason == "HOLD_COMMITTED"
        assert await debited(server, wallet) == [("h", 7)]


async def test_a_commit_that_was_acknowledged_and_lost_is_charged_by_the_token(config: Config) -> None:
    """No flusher: as with a store that lost the last second before Postgres had it."""
    async with run_server(config) as server:
        wallet = await server.wallet(USD=100)
        await server.assert_conserved(wallet)
    async with run_server(config.model_copy(update={"flusher": False})) as server:
        hold = await held(server, wallet, USD=10)
        assert not (await server.call(by_token(hold, USD=7))).replayed
        await lose_everything(server)
    async with run_server(config) as server:
        reply = await answered(server, by_token(hold, USD=7))
        assert (reply.replayed, reply.late) == (False, True)
        assert await debited(server, wallet) == [("h", 7)]
        assert await server.audit.stores.ledger.list_dead_letters(limit=10) == []


async def test_a_commit_that_waits_in_dead_letters_is_never_charged_again(config: Config) -> None:
    """Nothing at all is recorded when the partition's state is lost, but the outbox is still there."""
    async with run_server(config.model_copy(update={"flusher": False})) as server:
        wallet = await server.wallet(USD=100)
        done, begun = await held(server, wallet, "done", USD=10), await held(server, wallet, "begun", USD=10)
        await server.call(by_token(done, USD=7))
        await server.call(by_token(begun, USD=3, final=False))
        await lose_meta(server, wallet)
    async with run_server(config) as server:
        for request in (by_token(done, USD=7), commit_request(wallet, "done", USD=7)):
            reply = await answered(server, request)
            assert (reply.replayed, reply.wallet_sequence) == (True, 0)
            assert ([a.units for a in reply.debited], reply.balances[0].settled_units) == ([7], 100)
        assert (await refused(server, by_token(done, USD=8))).reason == "HOLD_COMMITTED"
        assert (await answered(server, by_token(begun, USD=3))).replayed
        failure = await refused(server, by_token(begun, USD=8))
        assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "DEAD_LETTER")
        assert failure.metadata == {"wallet_id": wallet, "hold_id": "begun"}
        letters = await server.audit.stores.ledger.list_dead_letters(limit=10)
        assert [letter.wallet_id for letter in letters] == [wallet] * 3, "the grant's event too; it was applied again"
        assert [e for e in await server.entries(wallet) if e.kind == types_pb2.ENTRY_KIND_DEBIT] == []


async def test_nothing_is_charged_by_token_before_the_old_outbox_is_salvaged(config: Config) -> None:
    async with run_server(config) as server:
        wallet = await server.wallet(USD=100)
        hold = await held(server, wallet, USD=10)
        await server.assert_conserved(wallet)
        await lose_everything(server)
        await until(lambda: served(server, wallet))
        async with server.audit.stores.ledger._connection() as connection:
            await connection.execute("UPDATE partitions SET left_epoch = 1")
            failure = await server.failure(by_token(hold, USD=7))
            assert (failure.code, failure.metadata) == (grpc.StatusCode.UNAVAILABLE, {"store": "valkey"})
            await connection.execute("UPDATE partitions SET left_epoch = 0")
        assert not (await server.call(by_token(hold, USD=7))).replayed
        assert await debited(server, wallet) == [("h", 7)]


async def served(server: Rpc, wallet: str) -> bool:
    """Whether the wallet can be read again."""
    try:
        await server.balance(wallet)
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_a_release_after_the_loss_refuses_the_token(config: Config) -> None:
    async with run_server(config) as server:
        wallet = await server.wallet(USD=100)
        hold = await held(server, wallet, USD=10)
        await server.assert_conserved(wallet)
        await lose_everything(server)
        await answered(server, pb.ReleaseRequest(wallet_id=wallet, hold_id="h"))
        assert (await refused(server, by_token(hold, USD=7))).reason == "HOLD_RELEASED"
        assert await debited(server, wallet) == []


async def test_a_hold_that_was_authorized_again_after_the_loss_is_charged_once(config: Config) -> None:
    """Also long after, when Valkey has forgotten it: the old token is of an earlier use of the id."""
    async with run_server(config.model_copy(update={"tombstone_ms": 1_000})) as server:
        wallet = await server.wallet(USD=100)
        old = await held(server, wallet, USD=10)
        await server.assert_conserved(wallet)
        await lose_everything(server)
        new = (await answered(server, authorize_request(wallet, "h", USD=10))).hold
        assert new.create_time.ToMilliseconds() > old.create_time.ToMilliseconds()
        reply = await server.call(by_token(old, USD=7))
        assert (reply.replayed, reply.late) == (False, False)
        await forgotten(server, wallet, "h")
        for hold in (old, new):
            assert (await server.call(by_token(hold, USD=7))).replayed
            assert (await refused(server, by_token(hold, USD=8))).reason == "HOLD_COMMITTED"
        assert await debited(server, wallet) == [("h", 7)]


async def forgotten(server: Server, wallet: str, hold_id: str) -> None:
    """Wait until Valkey does not know a hold any more. Until there is a later event, the sweep waits for Postgres."""
    await server.grant(wallet, f"after-{hold_id}", "USD", 1)
    partition = keys.partition_of(server.config.tenant, wallet, PARTITIONS)

    async def gone() -> bool:
        epoch = int(await server.audit.stores.nodes.of(0).hget(keys.meta(partition), "epoch"))
        holds = keys.wallet_keys(partition, epoch, server.config.tenant, wallet)[4]
        return not await server.audit.stores.nodes.of(0).hexists(holds, hold_id)

    await until(gone)


async def test_an_id_that_was_used_before_is_charged_for_its_second_use(config: Config) -> None:
    async with run_server(config.model_copy(update={"tombstone_ms": 1_000})) as server:
        wallet = await server.wallet(USD=100)
        first = await held(server, wallet, USD=10)
        await server.call(by_token(first, USD=7))
        await forgotten(server, wallet, "h")
        second = await held(server, wallet, USD=10)
        await server.assert_conserved(wallet)
        await lose_everything(server)
        assert not (await answered(server, by_token(second, USD=7))).replayed
        assert (await server.call(by_token(second, USD=7))).replayed
        entries = await server.debits(wallet, at_least=2)
        assert [entry.units for entry in entries] == [7, 7]


@pytest.mark.parametrize("with_token", [True, False], ids=["by token", "without a token"])
async def test_recorded_progress_goes_on_from_the_ledger(config: Config, *, with_token: bool) -> None:
    async with run_server(config) as server:
        wallet = await server.wallet(USD=100)
        hold = await held(server, wallet, USD=10)
        await server.call(by_token(hold, USD=3, final=False))
        await server.assert_conserved(wallet)
        await lose_everything(server)
        if not with_token:
            hold.hold_token = b""
        assert (await answered(server, by_token(hold, USD=3))).replayed
        assert (await refused(server, by_token(hold, USD=2))).reason == "TOTAL_BELOW_DEBITED"
        assert (await refused(server, by_token(hold, USD=11))).reason == "EXCEEDS_HOLD"
        reply = await server.call(by_token(hold, USD=8))
        assert ([a.units for a in reply.debited], reply.late, reply.replayed) == ([8], True, False)
        assert await debited(server, wallet) == [("h", 3), ("h", 5)]
        (row,) = [await server.audit.stores.ledger.get_settled_hold(config.tenant, wallet, "h")]
        assert row is not None
        assert row.final


async def test_progress_by_token_may_go_on_by_token(config: Config) -> None:
    async with run_server(config) as server:
        wallet = await server.wallet(USD=100)
        hold = await held(server, wallet, USD=10)
        await server.assert_conserved(wallet)
        for total in (2, 5):
            await lose_everything(server)
            reply = await answered(server, by_token(hold, USD=total, final=False))
            assert (reply.hold.state, reply.late) == (types_pb2.HOLD_STATE_EXPIRED, True)
            await server.assert_conserved(wallet)
        await lose_everything(server)
        await answered(server, by_token(hold, USD=9))
        assert await debited(server, wallet) == [("h", 2), ("h", 3), ("h", 4)]


async def test_a_hold_that_was_raised_is_charged_as_raised(config: Config) -> None:
    async with run_server(config) as server:
        wallet = await server.wallet(USD=100)
        hold = await held(server, wallet, USD=10)
        raised = await server.call(
            pb.ExtendRequest(wallet_id=wallet, hold_id="h", amounts=[types_pb2.Amount(asset="USD", units=30)])
        )
        denied = await server.call(
            pb.ExtendRequest(wallet_id=wallet, hold_id="h", amounts=[types_pb2.Amount(asset="USD", units=300)])
        )
        assert (denied.decision, denied.hold.hold_token) == (pb.DECISION_DENIED, b"")
        await server.assert_conserved(wallet)
        await lose_everything(server)
        assert (await refused(server, by_token(hold, USD=30))).reason == "EXCEEDS_HOLD"
        assert [a.units for a in (await server.call(by_token(raised.hold, USD=30))).debited] == [30]
        assert await debited(server, wallet) == [("h", 30)]


async def test_a_hold_committed_by_token_can_be_refunded(config: Config) -> None:
    async with run_server(config) as server:
        wallet = await server.wallet(USD=100)
        hold = await held(server, wallet, USD=10)
        await server.assert_conserved(wallet)
        await lose_everything(server)
        await answered(server, by_token(hold, USD=7))
        await server.call(
            pb.RefundRequest(
                wallet_id=wallet, hold_id="h", refund_id="r", amounts=[types_pb2.Amount(asset="USD", units=4)]
            )
        )
        assert (await server.balance(wallet)).settled_units == 97
        await server.assert_conserved(wallet)


async def test_without_the_ledger_nothing_is_charged(config: Config, postgres_process: PostgresProcess) -> None:
    async with run_server(config) as server:
        wallet = await server.wallet(USD=100)
        hold = await held(server, wallet, USD=10)
        await server.assert_conserved(wallet)
        await lose_everything(server)
        await until(lambda: served(server, wallet))
        await asyncio.to_thread(postgres_process.stop)
        try:
            failure = await server.failure(by_token(hold, USD=7))
            assert (failure.code, failure.metadata) == (grpc.StatusCode.UNAVAILABLE, {"store": "postgres"})
        finally:
            await asyncio.to_thread(postgres_process.start)
        assert not (await answered(server, by_token(hold, USD=7))).replayed
        assert await debited(server, wallet) == [("h", 7)]


@pytest.mark.parametrize("loss", ["cut", "silence"])
async def test_a_lost_reply_to_a_commit_by_token_and_a_retry_make_one_debit(
    config: Config, valkey_server: ValkeyProcess, loss: Loss
) -> None:
    async with TcpProxy(valkey_server.port) as proxy:
        lossy = config.model_copy(update={"valkey_url": proxy.url, "valkey_timeout_ms": VALKEY_TIMEOUT_MS})
        async with run_server(lossy) as server:
            wallet = await server.wallet(USD=100)
            hold = await held(server, wallet, USD=10)
            await server.assert_conserved(wallet)
            await lose_everything(server)
            await until(lambda: served(server, wallet))
            proxy.lose(b"ticket_ms", loss)  # only the second script of a Commit has one
            failure = await server.failure(by_token(hold, USD=7))
            assert failure.code is grpc.StatusCode.UNAVAILABLE
            assert proxy.lost.is_set()
            assert (await answered(server, by_token(hold, USD=7))).replayed
            assert await debited(server, wallet) == [("h", 7)]


async def test_servers_that_are_killed_while_they_charge_by_token_charge_once(config: Config, directory: Path) -> None:
    async with run_server(config) as server:
        wallet = await server.wallet(USD=1_000)
        holds = [await held(server, wallet, f"h{n}", USD=10) for n in range(60)]
        await server.assert_conserved(wallet)
        await lose_everything(server)
    async with program("serve", config, directory) as running:
        port = await running.ready()
        async with open_channel(port) as channel:
            rpc = Rpc(channel)
            sending = [asyncio.create_task(rpc.call(by_token(hold, USD=7))) for hold in holds]
            await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.to_thread(running.kill)
            await asyncio.wait(sending)
        acknowledged = [not task.exception() for task in sending]
    assert any(acknowledged)
    async with run_server(config) as server:
        replies = await asyncio.gather(*(answered(server, by_token(hold, USD=7)) for hold in holds))
        assert all(reply.replayed for reply, was in zip(replies, acknowledged, strict=True) if was)
        assert sorted(await debited(server, wallet)) == sorted((hold.hold_id, 7) for hold in holds)


def interrupt(
    monkeypatch: pytest.MonkeyPatch,
    between: Any,  # noqa: ANN401 - an async function without arguments
) -> None:
    """Once, after a Commit has asked the ledger and before it charges, do something else."""
    find, done = LedgerStore.find_dead_commit, []

    async def find_and_wait(store: LedgerStore, tenant_id: str, wallet_id: str, hold_id: str) -> Event | None:
        found = await find(store, tenant_id, wallet_id, hold_id)
        if not done:
            done.append(True)
            await between()
        return found

    monkeypatch.setattr(LedgerStore, "find_dead_commit", find_and_wait)


async def test_a_server_that_stalls_until_the_other_one_is_forgotten_charges_nothing(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_server(config.model_copy(update={"tombstone_ms": 1_000})) as server:
        wallet = await server.wallet(USD=100)
        hold = await held(server, wallet, USD=10)
        await server.assert_conserved(wallet)
        await lose_everything(server)
        await until(lambda: served(server, wallet))

        async def other_commit() -> None:
            assert not (await server.call(by_token(hold, USD=7))).replayed
            await forgotten(server, wallet, "h")

        interrupt(monkeypatch, other_commit)
        assert (await server.call(by_token(hold, USD=7))).replayed
        assert await debited(server, wallet) == [("h", 7)]


@pytest.mark.parametrize("committed", [True, False])
async def test_a_second_loss_while_the_ledger_is_asked_charges_once(
    config: Config, monkeypatch: pytest.MonkeyPatch, *, committed: bool
) -> None:
    async with run_server(config) as server:
        wallet = await server.wallet(USD=100)
        hold = await held(server, wallet, USD=10)
        await server.assert_conserved(wallet)
        await lose_everything(server)
        await until(lambda: served(server, wallet))

        async def loss() -> None:
            if committed:
                await server.call(by_token(hold, USD=7))
                await server.assert_conserved(wallet)
            await lose_everything(server)

        interrupt(monkeypatch, loss)
        assert (await answered(server, by_token(hold, USD=7))).replayed is committed
        assert await debited(server, wallet) == [("h", 7)]


async def test_a_hold_of_the_last_second_before_a_failover_is_charged(data_dir: Path, postgres_url: str) -> None:
    """A replica that lacks the last writes looks like the same history: no new epoch, and yet the hold is gone."""
    async with ValkeyProcess(data_dir, appendfsync="always") as valkey:
        config = settings(valkey.url, postgres_url, hold_token_keys=KEY)
        async with run_server(config) as server:
            wallet = await server.wallet(USD=100)
            await server.assert_conserved(wallet)
            await asyncio.to_thread(shutil.copytree, valkey.directory / "data", data_dir / "backup")
            hold = await held(server, wallet, USD=10)
            await asyncio.to_thread(valkey.kill)
            shutil.rmtree(valkey.directory / "data")
            (data_dir / "backup").rename(valkey.directory / "data")
            await asyncio.to_thread(valkey.start)
            reply = await answered(server, by_token(hold, USD=7))
            assert (reply.late, reply.replayed) == (True, False)
            assert {row.epoch for row in await server.audit.stores.ledger.read_partitions()} == {1}
            assert await debited(server, wallet) == [("h", 7)]


async def test_a_released_hold_that_was_forgotten_is_not_charged(config: Config) -> None:
    async with run_server(config.model_copy(update={"tombstone_ms": 1_000})) as server:
        wallet = await server.wallet(USD=100)
        hold = await held(server, wallet, USD=10)
        begun = await held(server, wallet, "begun", USD=10)
        await server.call(by_token(begun, USD=3, final=False))
        for name in ("h", "begun"):
            await server.release(wallet, name)
            await forgotten(server, wallet, name)
        for request in (by_token(hold, USD=7), by_token(begun, USD=7), commit_request(wallet, "begun", USD=7)):
            failure = await server.failure(request)
            assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "HOLD_NOT_FOUND")
        assert await debited(server, wallet) == [("begun", 3)]


async def test_a_token_is_of_no_use_a_week_after_its_hold(config: Config) -> None:
    async with run_server(config) as server:
        wallet = await server.wallet(USD=100)
        hold = await held(server, wallet, USD=10)
        await server.assert_conserved(wallet)
        await lose_everything(server)
        await until(lambda: served(server, wallet))
        tokens, now_ms = TokenKeys(token_secrets(KEY)), await server.audit.stores.holds.now_ms()
        content = tokens.read(hold.hold_token).content
        for age_ms, code in ((TOKEN_LIFE_MS + 1_000, "HOLD_NOT_FOUND"), (TOKEN_LIFE_MS - 60_000, "")):
            aged = msgspec.structs.replace(content, expire_ms=now_ms - age_ms)
            hold.hold_token = tokens.sign(aged)
            if code:
                assert (await server.failure(by_token(hold, USD=7))).reason == code
            else:
                await server.call(by_token(hold, USD=7))
        assert await debited(server, wallet) == [("h", 7)]


async def test_keys_are_rotated_without_losing_a_commit(config: Config) -> None:
    new_key = new_token_key()
    async with run_server(config) as server:
        wallet = await server.wallet(USD=100)
        old, other = await held(server, wallet, "old", USD=10), await held(server, wallet, "other", USD=10)
        await server.assert_conserved(wallet)
        async with run_server(config.model_copy(update={"hold_token_keys": new_key}), assets=False) as ahead:
            assert not (await ahead.call(by_token(other, USD=1))).replayed, "a hold that is there needs no key"
            new = await held(ahead, wallet, "new", USD=10)
        assert not (await server.call(by_token(new, USD=1))).replayed
        await server.assert_conserved(wallet)
        lost = await held(server, wallet, "lost", USD=10)
        await lose_everything(server)
    async with run_server(config.model_copy(update={"hold_token_keys": f"{new_key},{KEY}"})) as server:
        await answered(server, by_token(old, USD=7))
    async with run_server(config.model_copy(update={"hold_token_keys": ""})) as server:
        failure = await server.failure(by_token(lost, USD=7))
        assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TOKEN_KEY_UNKNOWN")
        assert failure.metadata == {"key_id": KEY.partition(":")[0]}
        assert (await server.authorize(wallet, "unsigned", USD=1)).hold.hold_token == b""
        assert await debited(server, wallet) == [("other", 1), ("new", 1), ("old", 7)]


async def test_forged_altered_and_foreign_tokens_are_refused(config: Config) -> None:
    async with run_server(config) as server:
        wallet, rich = await server.wallet(USD=100), await server.wallet(USD=100)
        hold, other = await held(server, wallet, USD=10), await held(server, rich, USD=10)
        neighbour = await held(server, wallet, "neighbour", USD=10)
        secrets = token_secrets(KEY)
        forger = TokenKeys(dict.fromkeys(secrets, bytes(32)))
        content = TokenKeys(secrets).read(hold.hold_token).content
        tenant = TokenKeys(secrets).sign(msgspec.structs.replace(content, tenant_id="evil"))
        token = hold.hold_token
        altered = [token[:n] + bytes([token[n] ^ 1]) + token[n:][1:] for n in (0, 40, len(token) - 1)]
        bad = [b"x", token[:-1], token + b"x", b"\1" * 4097, *altered, forger.sign(content), tenant]
        bad += [other.hold_token, neighbour.hold_token]
        for known in (True, False):
            for token in bad:
                request = by_token(hold, USD=7)
                request.hold_token = token
                failure = await server.failure(request)
                assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"), token
                assert failure.fields == ("hold_token",)
            if known:
                for name in (wallet, rich):
                    await server.assert_conserved(name)
                await lose_everything(server)
        for name in (wallet, rich):
            assert await debited(server, name) == []
