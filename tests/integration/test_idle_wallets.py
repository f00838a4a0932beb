"""Wallets that nobody uses leave Valkey, come back as they were, and do not miss what time does to them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import pytest
from structlog.testing import capture_logs

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import types_pb2
from drawdown_server import clock
from drawdown_server.app import open_stores
from drawdown_server.dev.process import free_port
from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.errors import StoreUnavailableError
from drawdown_server.holds import keys
from drawdown_server.holds.nodes import OneNode
from drawdown_server.holds.startup import open_client
from drawdown_server.ledger.reconcile import reconcile
from drawdown_server.wallets.evictor import PRESSURE_IDLE_S, Evictor
from drawdown_server.wallets.waker import Waker
from idle import IDLE_S, be_of_another_version, expire_unseen, forget, load_on_first_use, make_idle
from integration.server import grant_request, run_server, settings, until

if TYPE_CHECKING:
    from pathlib import Path

    from redis.asyncio import Redis

    from drawdown_server.config import Config
    from drawdown_server.stores import Stores
    from integration.server import Server

EXPIRE: Final = types_pb2.ENTRY_KIND_EXPIRE
TOMBSTONE_MS: Final = 1_000
SOON_MS: Final = 1_500
QUICK: Final[dict[str, object]] = {"evict_idle_s": 60, "evict_interval_ms": 20, "tombstone_ms": TOMBSTONE_MS}


def names_of(config: Config, wallet: str, epoch: int = 1) -> tuple[str, ...]:
    """Of its five keys in Valkey."""
    partition = keys.partition_of(config.tenant, wallet, config.partitions)
    return keys.wallet_keys(partition, epoch, config.tenant, wallet)[keys.WALLET :]


async def is_gone(server: Server, wallet: str) -> bool:
    return not await server.audit.stores.nodes.of(0).exists(*names_of(server.config, wallet))


async def let_go(server: Server, wallet: str) -> None:
    """Nobody touches a wallet for long, and it is evicted."""

    async def forgotten() -> bool:
        # Its last events are recorded, and its tombstones too old to be of use.
        return not await server.audit.stores.nodes.of(0).exists(names_of(server.config, wallet)[1])

    await until(forgotten)
    await make_idle(server.audit.stores.nodes.of(0), names_of(server.config, wallet)[0])
    await until(lambda: is_gone(server, wallet))


async def grant_for(server: Server, wallet: str, grant_id: str, units: int, **ms_from_now: int) -> int:
    """A grant with an ``expire`` or ``effective`` time; when that is, by the store's clock."""
    ((name, span_ms),) = ms_from_now.items()
    time_ms = await server.audit.stores.holds.now_ms() + span_ms
    request = grant_request(wallet, grant_id, "USD", units)
    getattr(request, f"{name}_time").FromMilliseconds(time_ms)
    await server.call(request)
    return time_ms


async def kinds(server: Server, wallet: str) -> list[int]:
    """Of its entries in the ledger, read past the server: nothing is loaded by it."""
    return [types_pb2.EntryKind.Value(f"ENTRY_KIND_{entry.kind.value}") for entry in await server.audit.entries(wallet)]


async def all_expired(server: Server, wallets: list[str]) -> bool:
    """Each has an EXPIRE entry."""
    return all([EXPIRE in await kinds(server, wallet) for wallet in wallets])


async def test_a_wallet_that_was_evicted_is_used_as_if_it_had_not_been(config: Config) -> None:
    async with run_server(config.model_copy(update=QUICK)) as server:
        wallet, used = await server.wallet(USD=100), await server.wallet(USD=100)
        for name in (wallet, used):
            await server.authorize(name, "h", USD=40)
            await server.commit(name, "h", USD=30)
        await let_go(server, wallet)
        assert not await is_gone(server, used)
        assert (await server.balance(wallet)).available_units == 70
        await let_go(server, wallet)
        replies = await asyncio.gather(*(server.authorize(wallet, f"n{number}", USD=7) for number in range(12)))
        approved = [reply.decision for reply in replies].count(pb.DECISION_APPROVED)
        assert approved == 10, "exactly what was left"
        assert (await server.commit(wallet, "h", USD=30)).replayed, "the ledger answers for what Valkey forgot"
        await server.assert_conserved(wallet, used)


async def test_holds_and_late_repeats_keep_a_wallet_in_valkey(config: Config) -> None:
    async with run_server(config.model_copy(update=QUICK | {"tombstone_ms": 60_000})) as server:
        held, settled, idle = [await server.wallet(USD=10) for _ in range(3)]
        await server.authorize(held, "h", USD=4)
        await server.authorize(settled, "h", USD=4)
        await server.release(settled, "h")
        for wallet in (held, settled, idle):
            await server.audit.assert_conserved(wallet)
            await make_idle(server.audit.stores.nodes.of(0), names_of(config, wallet)[0])
        await until(lambda: is_gone(server, idle))
        assert not await is_gone(server, held)
        assert not await is_gone(server, settled)
        assert (await server.release(settled, "h")).replayed
        await server.assert_conserved(held, settled, idle)


@pytest.mark.parametrize("what", ["expire", "effective"])
async def test_the_ledger_hears_in_time_of_a_grant_of_an_evicted_wallet(config: Config, what: str) -> None:
    async with run_server(config.model_copy(update=QUICK)) as server:
        wallet = await server.wallet(USD=100)
        due_ms = await grant_for(server, wallet, "soon", 5, **{what: SOON_MS})
        await server.audit.assert_conserved(wallet)
        before = await kinds(server, wallet)
        await make_idle(server.audit.stores.nodes.of(0), names_of(config, wallet)[0])
        await until(lambda: is_gone(server, wallet))
        assert await server.audit.stores.holds.now_ms() < due_ms, "it left before its time"

        async def recorded() -> bool:
            return await kinds(server, wallet) != before

        await until(recorded)
        (entry,) = (await server.audit.entries(wallet))[len(before) :]
        assert (entry.kind.value, entry.grant_id, entry.units) == ("EXPIRE" if what == "expire" else "GRANT", "soon", 5)
        assert entry.occurred_ms >= due_ms
        await server.assert_conserved(wallet)


async def test_after_a_rebuild_what_expired_meanwhile_reaches_the_ledger_without_a_call(
    data_dir: Path, postgres_url: str
) -> None:
    async with ValkeyProcess(data_dir, appendfsync="no") as valkey:
        config = settings(valkey.url, postgres_url, valkey_timeout_ms=500)
        async with run_server(config) as server:
            wallets = [await server.wallet(USD=100) for _ in range(4)]
            for wallet in wallets:
                await grant_for(server, wallet, "soon", 5, expire=SOON_MS)
            await server.audit.assert_conserved(*wallets)
            await server.audit.stores.nodes.of(0).flushall()
            # Nobody names the wallets; one call tells the server that Valkey lost everything.
            assert (await server.balance(await server.wallet(USD=1))).available_units == 1

            async def expired() -> bool:
                return await all_expired(server, wallets)

            await until(expired)
            epochs = {row.epoch for row in await server.audit.stores.ledger.read_partitions()}
            assert epochs == {2}
        async with open_stores(config) as stores:
            report = await reconcile(stores.holds, stores.ledger, config.tenant)
            assert report.clean, "\n".join(map(str, report.differences))


async def waker_of(stores: Stores) -> Waker:
    return Waker(stores.holds, stores.ledger, tombstone_ms=TOMBSTONE_MS)


async def test_a_waker_that_starts_finds_what_was_missed_and_wakes_nobody_twice(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the beginning of all times, page by page, with history between the grants that matter."""
    monkeypatch.setattr("drawdown_server.wallets.waker.GRANTS_PER_PAGE", 3)
    async with run_server(config) as server:
        wallets = [await server.wallet(USD=100) for _ in range(7)]
        for number, wallet in enumerate(wallets):
            await grant_for(server, wallet, "past", 5, expire=200 + number)

        async def history() -> bool:
            return await all_expired(server, wallets)

        await until(history)
        for wallet in wallets[::2]:
            await grant_for(server, wallet, "missed", 7, expire=60_000)
        await server.audit.assert_conserved(*wallets)
    async with open_stores(config) as stores:
        waker = await waker_of(stores)
        pages = 1
        while await waker.run_once():
            pages += 1
        assert (pages, waker.woken_total) == (3, 0), "none of these is due"
        await expire_unseen(stores, "missed")
        waker = await waker_of(stores)
        while await waker.run_once():
            pass
        assert waker.woken_total == 4
        assert not await waker.run_once()
        assert waker.woken_total == 4


@pytest.mark.parametrize("put_off_max", [10, 1], ids=["remembered", "forgotten"])
async def test_wallets_that_cannot_be_woken_keep_no_other_asleep_and_are_woken_once_they_can_be(
    config: Config, monkeypatch: pytest.MonkeyPatch, put_off_max: int
) -> None:
    monkeypatch.setattr("drawdown_server.wallets.waker.PUT_OFF_MAX", put_off_max)
    async with run_server(config) as server:
        wallets = sorted(
            [await server.wallet(USD=100) for _ in range(5)]
        )  # grants of one moment are walked in this order
        for wallet in wallets:
            await grant_for(server, wallet, "missed", 7, expire=60_000)
        await server.audit.assert_conserved(*wallets)
    refused, others = wallets[:3], wallets[3:]
    async with open_stores(config) as stores:
        load_on_first_use(stores)
        await forget(stores, config.tenant, *others)
        for wallet in refused:
            await be_of_another_version(stores.nodes.of(0), names_of(config, wallet)[0])
        await expire_unseen(stores, "missed")
        waker = await waker_of(stores)
        with capture_logs() as logs:
            assert not await waker.run_once()
        assert waker.woken_total == len(others)
        (line,) = [line for line in logs if line["event"] == "waker.put_off"]
        assert (line["wallets"], line["wallet_id"]) == (3, refused[0])
        assert not await waker.run_once(), "they are left alone for a while"

        monkeypatch.setattr("drawdown_server.wallets.waker.AGAIN_S", 0.0)
        monkeypatch.setattr(clock, "monotonic_s", lambda: time.monotonic() + 3_600)
        await waker.run_once()
        assert waker.woken_total == len(others), "they are no better"
        await forget(stores, config.tenant, *refused)

        async def all_awake() -> bool:
            await waker.run_once()
            live = [await stores.holds.read_live(config.tenant, wallet) for wallet in wallets]
            return all(live)

        await until(all_awake)
    async with run_server(config, assets=False) as server:
        await server.assert_conserved(*wallets)
        assert await all_expired(server, wallets)


class FirstIsLost(OneNode):
    """A cluster whose first primary does not answer, and whose second has everything."""

    def __init__(self, lost: Redis, client: Redis) -> None:
        super().__init__(client)
        self._lost = lost

    @property
    def clients(self) -> list[Redis]:
        return [self._lost, self.of(0)]


async def test_a_primary_that_is_lost_keeps_no_idle_wallet_on_the_others(valkey_url: str, postgres_url: str) -> None:
    config = settings(valkey_url, postgres_url)
    async with (
        run_server(config.model_copy(update={"evict_idle_s": 0})) as server,
        open_client(f"redis://127.0.0.1:{free_port()}", timeout_ms=1_000) as lost,
    ):
        idle = await server.wallet(USD=100)
        await server.audit.assert_conserved(idle)
        stores = server.audit.stores
        await make_idle(stores.nodes.of(0), names_of(config, idle)[0], IDLE_S + 1)
        nodes = FirstIsLost(lost, stores.nodes.of(0))
        evictor = Evictor(nodes, stores.holds, stores.ledger, idle_s=IDLE_S, interval_ms=1)
        with pytest.raises(StoreUnavailableError):
            await evictor.run_once()
        assert await is_gone(server, idle)
        await server.assert_conserved(idle)


async def test_memory_that_is_short_lets_wallets_go_sooner(data_dir: Path, postgres_url: str) -> None:
    async with ValkeyProcess(data_dir, appendfsync="no") as valkey:
        config = settings(valkey.url, postgres_url)
        async with run_server(config.model_copy(update={"evict_idle_s": 0})) as server:
            idle, older, used = [await server.wallet(USD=100) for _ in range(3)]
            await server.audit.assert_conserved(idle, older, used)
            client = server.audit.stores.nodes.of(0)
            await make_idle(client, names_of(config, idle)[0], PRESSURE_IDLE_S + 1)
            await make_idle(client, names_of(config, older)[0], IDLE_S + 1)
            evictor = Evictor(
                OneNode(client), server.audit.stores.holds, server.audit.stores.ledger, idle_s=IDLE_S, interval_ms=1
            )
            assert (await server.balance(older)).available_units == 100, "a look, as the reconciler takes it, is no use"
            assert not await evictor.run_once(), "there is no limit, and no hurry"
            gone = [await is_gone(server, wallet) for wallet in (idle, older, used)]
            assert gone == [False, True, False]
            await client.config_set("maxmemory", int((await client.info("memory"))["used_memory"] * 1.2))
            assert await evictor.run_once(), "more of them may go"
            assert [await is_gone(server, wallet) for wallet in (idle, used)] == [True, False]
            assert not await evictor.run_once()
            await client.config_set("maxmemory", 0)
            assert evictor.evicted_total == 2
            await server.assert_conserved(idle, older, used)


async def test_keys_of_an_older_epoch_are_left_alone(config: Config) -> None:
    async with run_server(config.model_copy(update=QUICK)) as server:
        wallet = await server.wallet(USD=100)
        await server.audit.assert_conserved(wallet)
        client, stale = server.audit.stores.nodes.of(0), names_of(config, wallet, epoch=7)[0]
        await client.copy(names_of(config, wallet)[0], stale)
        await make_idle(client, stale)
        await let_go(server, wallet)
        assert await client.exists(stale)
        await server.assert_conserved(wallet)
