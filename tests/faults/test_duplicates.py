"""The same call, a hundred times at once through two servers: one effect, and a hundred answers that are one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from drawdown.v1 import asset_service_pb2 as asset_pb
from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import types_pb2
from drawdown_server.ledger import database
from faults.mutations import CARRIERS, MUTATIONS, STORES_NOTHING, WITHOUT_A_WALLET, anonymous, methods, prepared, story
from integration.server import DEADLINE_S, authorize_request, duration, run_server

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from drawdown_server.config import Config
    from integration.server import Rpc, Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

COPIES = 100
READS = ("Get", "List")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred wait for eight connections to Postgres: on a loaded machine for longer than a caller should."""
    monkeypatch.setattr(database, "ACQUIRE_TIMEOUT_S", DEADLINE_S)


async def answers(servers: tuple[Rpc, Rpc], request: Message) -> list[Any]:
    """What every copy of a request is told, half of them by each server."""
    return await asyncio.gather(*(servers[number % 2].call(request) for number in range(COPIES)))


async def test_every_rpc_that_changes_something_is_tried() -> None:
    changing = {name for name in methods() if not name.startswith(READS)} - STORES_NOTHING
    assert changing == {name.partition(".")[0] for name in MUTATIONS} | WITHOUT_A_WALLET | CARRIERS


async def test_a_hundred_copies_have_one_effect_and_one_answer(server: Server, shared_config: Config) -> None:
    async with run_server(shared_config, assets=False) as other:
        twins: dict[str, tuple[str, str]] = {}
        for name, mutation in MUTATIONS.items():
            wallet, twin = await prepared(server, mutation), await prepared(server, mutation)
            twins[name] = (wallet, twin)
            once = await server.call(mutation.request(twin))
            replies = await answers((server, other), mutation.request(wallet))
            if hasattr(once, "replayed"):
                firsts = sum(not reply.replayed for reply in replies)
                assert firsts == (not once.replayed), f"{name}: {firsts} of {COPIES} say that they did it"
                for reply in replies:
                    reply.replayed = once.replayed
            told = [anonymous(reply, wallet) for reply in replies]
            assert [answer for answer in told if answer != told[0]] == [], name
            assert told[0] == anonymous(once, twin), name
        for name, (wallet, twin) in twins.items():
            await server.assert_conserved(wallet, twin)
            assert await story(server, wallet) == await story(server, twin), name


async def test_a_hundred_copies_make_one_asset(server: Server, shared_config: Config) -> None:
    request = asset_pb.CreateAssetRequest(
        asset="GPU_SECONDS", scale=3, default_overage_policy=types_pb2.OVERAGE_POLICY_REJECT
    )
    async with run_server(shared_config, assets=False) as other:
        replies = await answers((server, other), request)
    assert all(reply == replies[0] for reply in replies)
    found = await server.call(asset_pb.ListAssetsRequest())
    assert [asset for asset in found.assets if asset.asset == "GPU_SECONDS"] == [replies[0].asset]


async def test_a_hundred_copies_of_a_longer_ttl_are_the_latest_of_them(server: Server) -> None:
    """A ttl counts from when it arrives, so these answers differ; what stays is the last."""
    wallet = await server.wallet(USD=10)
    await server.call(authorize_request(wallet, "h", USD=10))
    replies = await answers((server, server), pb.ExtendRequest(wallet_id=wallet, hold_id="h", ttl=duration(600)))
    latest = max(reply.hold.expire_time.ToMilliseconds() for reply in replies)
    assert (await server.get_hold(wallet, "h")).expire_time.ToMilliseconds() == latest
    await server.assert_conserved(wallet)
