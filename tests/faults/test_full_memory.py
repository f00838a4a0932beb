"""Fault 6: Valkey's memory is full. What was approved is settled and recorded; nothing new begins, nothing by half."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import grpc
import pytest

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import types_pb2
from drawdown.v1 import wallet_service_pb2 as wallet_pb
from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.holds import keys
from idle import make_idle
from integration.server import (
    amounts,
    authorize_request,
    commit_request,
    duration,
    grant_request,
    run_server,
    settings,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from google.protobuf.message import Message

    from drawdown_server.config import Config
    from integration.server import Server

NO_ROOM: Final = 1
"""A maxmemory that is used up whatever happens; 0 = no limit."""


@pytest.fixture
async def full_config(data_dir: Path, postgres_url: str) -> AsyncIterator[Config]:
    """Settings of a server on a Valkey of its own."""
    async with ValkeyProcess(data_dir, appendfsync="no") as valkey:
        yield settings(valkey.url, postgres_url, evict_interval_ms=20)


async def limit_memory(server: Server, maxmemory: int) -> None:
    await server.audit.stores.nodes.of(0).config_set("maxmemory", maxmemory)


def names_of(server: Server, wallet: str) -> tuple[str, ...]:
    """meta, outbox, due, wallet, holds, open, settled, caps."""
    config = server.config
    return keys.wallet_keys(keys.partition_of(config.tenant, wallet, config.partitions), 1, config.tenant, wallet)


async def at_rest(server: Server, wallet: str) -> list[bytes | None]:
    """Every byte of a wallet, and its outbox."""
    return [await server.audit.stores.nodes.of(0).dump(name) for name in names_of(server, wallet)]


def extend_request(wallet: str, hold_id: str, ttl_s: float = 0, **units: int) -> pb.ExtendRequest:
    return pb.ExtendRequest(
        wallet_id=wallet, hold_id=hold_id, ttl=duration(ttl_s) if ttl_s else None, amounts=amounts(**units)
    )


async def test_what_was_approved_is_settled_and_nothing_new_begins(full_config: Config) -> None:
    async with run_server(full_config) as server:
        wallet, cold = await server.wallet(USD=1000), "cold"
        await server.call(wallet_pb.CreateWalletRequest(wallet_id=cold))
        for hold_id in ("commit", "progress", "release", "extend", "paid"):
            await server.authorize(wallet, hold_id, USD=100)
        await server.commit(wallet, "paid", USD=100)
        await server.debits(wallet, at_least=1)
        await server.audit.assert_conserved(wallet)

        await limit_memory(server, NO_ROOM)
        before = await at_rest(server, wallet)
        taking: list[Message] = [
            authorize_request(wallet, "new", USD=1),
            authorize_request(cold, "new", USD=1),
            pb.ChargeRequest(wallet_id=wallet, charge_id="new", amounts=amounts(USD=1)),
            extend_request(wallet, "extend", USD=150),
            pb.ReleaseRequest(wallet_id=wallet, hold_id="never-was"),
            grant_request(wallet, "late", "USD", 50),
        ]
        for request in taking:
            failure = await server.failure(request)
            assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"), request
            assert (failure.metadata, failure.retry_ms) == ({"store": "valkey"}, 50)
        assert await at_rest(server, wallet) == before, "nothing by half"

        assert (await server.commit(wallet, "commit", USD=70)).debited[0].units == 70
        progress = pb.CommitRequest(wallet_id=wallet, hold_id="progress", amounts=amounts(USD=30), final=False)
        assert (await server.call(progress)).debited[0].units == 30
        assert (await server.release(wallet, "release")).hold.state == types_pb2.HOLD_STATE_RELEASED
        held = await server.get_hold(wallet, "extend")
        longer = await server.call(extend_request(wallet, "extend", ttl_s=3600))
        assert longer.hold.expire_time.seconds > held.expire_time.seconds
        refund = pb.RefundRequest(wallet_id=wallet, hold_id="paid", refund_id="r", amounts=amounts(USD=40))
        assert (await server.call(refund)).hold.amounts[0].refunded_units == 40
        assert len(await server.debits(wallet, at_least=3)) == 3
        await server.audit.assert_conserved(wallet)

        await limit_memory(server, 0)

        async def funded() -> bool:
            return (await server.balance(wallet)).settled_units == 1000 + 50 - 70 - 30 - 100 + 40

        await until(funded)  # nobody asked for the grant again
        assert (await server.call(taking[-1])).replayed
        assert (await server.call(taking[0])).decision == pb.DECISION_APPROVED
        await server.assert_conserved(wallet, cold)


async def test_what_expires_is_freed_and_what_is_idle_is_evicted(full_config: Config) -> None:
    quick = full_config.model_copy(update={"tombstone_ms": 1_000})
    async with run_server(quick) as server:
        wallet, idle = await server.wallet(USD=100), await server.wallet(USD=100)
        await server.audit.assert_conserved(wallet, idle)
        await make_idle(server.audit.stores.nodes.of(0), names_of(server, idle)[keys.WALLET], idle_s=3_000)
        await server.authorize(wallet, "h", ttl_s=1, USD=40)
        await limit_memory(server, NO_ROOM)
        client, (*_, of_idle, _, _, _, _) = server.audit.stores.nodes.of(0), names_of(server, idle)

        async def freed() -> bool:
            return (await server.balance(wallet)).held_units == 0

        async def evicted() -> bool:
            return not await client.exists(of_idle)

        async def forgotten() -> bool:
            return not await client.exists(names_of(server, wallet)[4])

        for happened in (freed, evicted, forgotten):
            await until(happened)
        await limit_memory(server, 0)
        assert (await server.balance(idle)).available_units == 100
        await server.assert_conserved(wallet, idle)


async def test_a_stream_of_commits_on_a_full_valkey_takes_no_more_memory_the_longer_it_goes_on(
    full_config: Config,
) -> None:
    async with run_server(full_config) as server:
        wallet = await server.wallet(USD=100_000)
        await server.authorize(wallet, "h", USD=50_000)
        await limit_memory(server, NO_ROOM)
        client, (_, outbox, _, *own) = server.audit.stores.nodes.of(0), names_of(server, wallet)

        async def bytes_after(commits: int) -> int:
            """Of the wallet and its outbox, after commits up to this total, once they are recorded."""
            for units in range(commits - 99, commits + 1):
                request = pb.CommitRequest(wallet_id=wallet, hold_id="h", amounts=amounts(USD=units), final=False)
                await server.call(request)
            await server.audit.assert_conserved(wallet)

            async def trimmed() -> bool:
                return await client.xlen(outbox) <= 1

            await until(trimmed)
            return sum([await client.memory_usage(name) or 0 for name in (outbox, *own)])

        first = await bytes_after(100)
        for commits in (200, 300, 400):
            assert await bytes_after(commits) <= first * 1.1, "numbers grow by a digit, and no list does"
        assert (await server.call(commit_request(wallet, "h", USD=401))).hold.state == types_pb2.HOLD_STATE_COMMITTED
        await limit_memory(server, 0)
        await server.assert_conserved(wallet)
