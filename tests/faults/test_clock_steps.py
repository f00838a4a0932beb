"""Clocks jump by an hour, forwards and backwards: Valkey's, which decides about money, and the host's, which must not.

What is on time is judged by Valkey's clock alone, so a jump of it can end a hold early or late. It never loses or
makes units, and whatever is over can still be committed, late.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import pytest

from contract.stage import open_stage
from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import cap_service_pb2 as cap_pb
from drawdown.v1 import grant_service_pb2 as grant_pb
from drawdown.v1 import types_pb2
from drawdown.v1 import wallet_service_pb2 as wallet_pb
from drawdown_server.dev.process import free_port
from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.holds.messages import LoadRequest
from drawdown_server.holds.model import WalletState
from faults.clocks import HOUR_S, Clock
from faults.gateway import Gateway
from faults.processes import program
from integration.audit import open_audit
from integration.server import Rpc, open_channel, run_server, settings, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from drawdown_server.config import Config
    from drawdown_server.holds.store import HoldStore
    from integration.server import Server

TTL_S: Final = 60
FUNDS: Final = 100


@asynccontextmanager
async def server_on(directory: Path, clock: Clock, postgres_url: str) -> AsyncIterator[Server]:
    """A server whose Valkey has a clock to be set."""
    async with (
        ValkeyProcess(directory / "valkey", binary=clock.valkey(), appendfsync="no") as valkey,
        run_server(settings(valkey.url, postgres_url)) as server,
    ):
        yield server


async def step(clock: Clock, store: HoldStore, seconds: int) -> None:
    """Set the clock, and wait until the store goes by it: it looks once per turn of its loop."""
    clock.step(seconds)

    async def shown() -> bool:
        return (
            abs(await store.now_ms() - (time.time() + seconds) * 1000) < HOUR_S * 1000 / 2 or abs(seconds) < HOUR_S / 2
        )

    await until(shown)


@pytest.fixture
def clock(directory: Path) -> Clock:
    return Clock(directory / "clock")


async def positions(server: Server) -> dict[int, tuple[int, int]]:
    """How far Postgres has recorded each outbox."""
    rows = await server.audit.stores.ledger.read_partitions()
    return {row.partition: tuple(map(int, row.position.split("-"))) for row in rows}  # type: ignore[misc]


async def use(server: Server, wallet: str, hold_id: str) -> pb.CommitResponse:
    """A hold, committed."""
    reply = await server.authorize(wallet, hold_id, TTL_S, USD=5)
    assert reply.decision == pb.DECISION_APPROVED, reply.denial
    return await server.commit(wallet, hold_id, USD=5)


async def in_state(server: Server, wallet: str, hold_id: str, state: types_pb2.HoldState) -> bool:
    return (await server.get_hold(wallet, hold_id)).state == state


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S], ids=["forwards", "backwards"])
async def test_an_hour_on_valkeys_clock_costs_nobody_anything(
    directory: Path, clock: Clock, postgres_url: str, step_s: int
) -> None:
    async with server_on(directory, clock, postgres_url) as server:
        wallet = await server.wallet(USD=FUNDS)
        await use(server, wallet, "before")
        await server.authorize(wallet, "open", TTL_S, USD=10)
        await server.authorize(wallet, "forgotten", TTL_S, USD=20)
        await server.assert_conserved(wallet)
        recorded = await positions(server)

        await step(clock, server.audit.stores.holds, step_s)
        if step_s > 0:  # over early: the units are free at once, the usage is still charged
            await until(lambda: in_state(server, wallet, "forgotten", types_pb2.HOLD_STATE_EXPIRED))
            assert (await server.balance(wallet)).available_units == FUNDS - 5
        else:  # over late: nothing ends before its time
            await server.audit.stores.holds.now_ms()
            assert await in_state(server, wallet, "forgotten", types_pb2.HOLD_STATE_HELD)
            assert (await server.balance(wallet)).held_units == 30
        assert (await server.commit(wallet, "open", USD=10)).late == (step_s > 0)
        assert (await use(server, wallet, "after")).wallet_sequence == 4, "the sequence goes on without a gap"
        another = await server.wallet(USD=7)  # money in, and the load of a wallet
        await use(server, another, "h")

        await step(
            clock, server.audit.stores.holds, TTL_S + 1 if step_s < 0 else 0
        )  # as a minute later without the fault; or set right again
        await until(lambda: in_state(server, wallet, "forgotten", types_pb2.HOLD_STATE_EXPIRED))
        await use(server, wallet, "last")
        balance = await server.balance(wallet)
        assert (balance.held_units, balance.available_units) == (0, FUNDS - 5 - 10 - 5 - 5)
        await server.assert_conserved(wallet, another)
        assert all(after >= recorded[number] for number, after in (await positions(server)).items())
        times = [entry.wallet_sequence for entry in await server.entries(wallet)]
        assert times == sorted(times)


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S], ids=["forwards", "backwards"])
async def test_caps_count_in_the_window_that_valkeys_clock_shows(
    directory: Path, clock: Clock, postgres_url: str, step_s: int
) -> None:
    """Another hour has its own headroom. Set right again, the first hour is as full as it was."""
    async with server_on(directory, clock, postgres_url) as server:
        wallet = await server.wallet(USD=FUNDS)
        cap = cap_pb.SetCapRequest(
            wallet_id=wallet,
            asset="USD",
            window=types_pb2.CAP_WINDOW_HOUR,
            limit_units=5,
            mode=types_pb2.CAP_MODE_ENFORCE,
        )
        await server.call(cap)

        async def decision(hold_id: str) -> pb.Decision:
            return (await server.authorize(wallet, hold_id, TTL_S, USD=5)).decision

        assert await decision("h1") == pb.DECISION_APPROVED
        await server.commit(wallet, "h1", USD=5)
        assert await decision("h2") == pb.DECISION_DENIED
        await step(clock, server.audit.stores.holds, step_s)
        assert await decision("h3") == pb.DECISION_APPROVED
        await server.commit(wallet, "h3", USD=5)
        assert await decision("h4") == pb.DECISION_DENIED
        await step(clock, server.audit.stores.holds, 0)
        assert await decision("h5") == pb.DECISION_DENIED
        await server.assert_conserved(wallet)


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S], ids=["forwards", "backwards"])
async def test_a_load_that_began_before_the_step_begins_again(directory: Path, clock: Clock, step_s: int) -> None:
    """Its ticket does not say any more how old it is."""
    async with (
        ValkeyProcess(directory / "valkey", binary=clock.valkey(), appendfsync="no") as valkey,
        open_stage(valkey.url) as stage,
    ):
        wallet = stage.unloaded()
        ticket = await stage.store.ticket(**wallet.ids)
        await step(clock, stage.store, step_s)
        request = LoadRequest(
            **wallet.ids,
            ticket_ms=ticket.time_ms,
            state=WalletState.ACTIVE,
            sequence=0,
            change_number=0,
            assets=[],
            caps=[],
            cap_usage=[],
            changes=[],
        )
        assert (await stage.store.load(request, ticket)).status == "TICKET_EXPIRED"
        assert (await wallet.load()).loaded


async def test_a_hold_is_remembered_until_it_is_recorded_also_when_the_clock_went_back(
    directory: Path, clock: Clock
) -> None:
    """Events keep the order of the outbox, whose ids do not go back: the clock alone cannot say what is recorded."""
    async with (
        ValkeyProcess(directory / "valkey", binary=clock.valkey(), appendfsync="no") as valkey,
        open_stage(valkey.url) as stage,
    ):
        wallet = await stage.wallet(USD=FUNDS)
        await wallet.hold("recorded", USD=1)
        await wallet.commit("recorded", USD=1)
        await wallet.hold("in progress", USD=2)
        await wallet.commit("in progress", final=False, USD=1)
        await wallet.sweep()  # in a world where Postgres has all of it
        await step(clock, stage.store, -HOUR_S)
        await wallet.hold("unrecorded", USD=3)
        await wallet.commit("unrecorded", tombstone_ms=1_000, USD=3)
        await wallet.commit("in progress", tombstone_ms=1_000, USD=2)
        for later_s in (-HOUR_S + 2, 0):  # past the tombstones by the clock that went back; set right again
            await step(clock, stage.store, later_s)
            await wallet.sweep(recorded=False)
            for hold_id in ("unrecorded", "in progress"):
                assert (await wallet.read_hold(hold_id)).hold_id == hold_id
        await step(clock, stage.store, 2)
        await wallet.sweep(recorded=True)
        assert await stage.nodes.of(0).hkeys(wallet.keys[4]) == [b"recorded"]


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S], ids=["forwards", "backwards"])
async def test_the_clock_of_the_servers_host_decides_nothing(
    config: Config, directory: Path, clock: Clock, step_s: int
) -> None:
    """A server whose host is an hour off, is set right, and jumps to the other side while a gateway works."""
    clock.step(step_s)
    port = free_port()
    settings_of_port = config.model_copy(update={"grpc_port": port})
    async with (
        program("serve", settings_of_port, directory, clock.environment()),
        open_channel(port) as channel,
        open_audit(config) as audit,
    ):
        rpc = Rpc(channel)
        await rpc.create_assets()
        began_ms = await audit.stores.holds.now_ms()
        gateway = Gateway(rpc, [await rpc.wallet(USD=1_000_000) for _ in range(2)])
        load = asyncio.create_task(gateway.run())
        for seconds in (step_s, 0, -step_s):
            clock.step(seconds)
            await gateway.reaches(40)
        gateway.stop.set()
        await load
        assert gateway.retries == 0

        wallet = await rpc.wallet(USD=10)
        hold = (await rpc.authorize(wallet, "h", TTL_S, USD=1)).hold
        assert hold.expire_time.ToMilliseconds() - hold.create_time.ToMilliseconds() == TTL_S * 1000
        assert not (await rpc.commit(wallet, "h", USD=1)).late
        await gateway.assert_recorded(audit)
        await audit.assert_conserved(wallet)
        found = await rpc.call(wallet_pb.GetWalletRequest(wallet_id=wallet))
        grants = await rpc.call(grant_pb.ListGrantsRequest(wallet_id=wallet))
        entries = await rpc.entries(wallet) + await rpc.entries(gateway.wallets[0])
        ended_ms = await audit.stores.holds.now_ms()
        times = [hold.create_time, found.wallet.create_time, found.wallet.update_time]
        times += [grant.create_time for grant in grants.grants]
        times += [entry.occurred_time for entry in entries]
        off = [time for time in times if not began_ms <= time.ToMilliseconds() <= ended_ms]
        assert off == [], "of the stores, not of the server"
