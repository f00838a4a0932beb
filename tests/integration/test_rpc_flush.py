"""From the answer of Commit to the ledger: what is recorded, how soon, and that both stores agree."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from drawdown.v1 import asset_service_pb2 as asset_pb
from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import wallet_service_pb2 as wallet_pb
from drawdown_server.holds import keys
from drawdown_server.ledger.reconcile import reconcile
from integration.server import authorize_request, pages, run_server, until

if TYPE_CHECKING:
    from drawdown_server.config import Config
    from integration.server import Server


async def test_a_commit_is_recorded_with_its_hold_grants_subjects_and_labels(config: Config) -> None:
    async with run_server(config) as server:
        wallet = await server.wallet()
        for grant_id, units in (("a", 10), ("b", 10)):
            await server.grant(wallet, grant_id, "USD", units)
        request = authorize_request(wallet, "h1", USD=15)
        request.subjects.extend(["key:sk_1", "model:gpt-x"])
        request.labels.update({"run": "ü", "empty": ""})
        await server.call(request)
        committed = await server.commit(wallet, "h1", USD=12)
        debits = await server.debits(wallet, at_least=2)
        assert [(entry.grant_id, entry.units, entry.line) for entry in debits] == [("a", 10, 1), ("b", 2, 2)]
        for entry in debits:
            assert entry.wallet_sequence == committed.wallet_sequence
            assert (entry.hold_id, list(entry.subjects)) == ("h1", ["key:sk_1", "model:gpt-x"])
            assert dict(entry.labels) == {"run": "ü", "empty": ""}
            assert entry.occurred_time == committed.hold.settle_time
        await server.assert_conserved(wallet)


async def test_traffic_on_many_wallets_is_recorded_without_a_difference(config: Config) -> None:
    dice = random.Random(7)  # noqa: S311
    async with run_server(config) as server:
        wallets = [await server.wallet(USD=200, TOKENS=200) for _ in range(20)]

        async def request(number: int) -> None:
            wallet, hold_id = dice.choice(wallets), f"h{number}"
            usd, tokens = dice.randint(1, 20), dice.randint(1, 20)
            reply = await server.authorize(wallet, hold_id, USD=usd, TOKENS=tokens)
            fate = dice.random()
            if reply.decision != pb.DECISION_APPROVED or fate < 0.1:
                return
            if fate < 0.3:
                await server.release(wallet, hold_id)
            else:
                await server.commit(wallet, hold_id, USD=dice.randint(0, usd), TOKENS=dice.randint(0, tokens))

        await asyncio.gather(*(request(number) for number in range(400)))
        await server.assert_conserved(*wallets)
        report = await reconcile(server.audit, server.audit.stores.ledger, config.tenant)
        assert (report.clean, report.wallets, report.not_live) == (True, 20, 0)


async def test_what_is_recorded_is_trimmed_from_the_outbox(config: Config) -> None:
    async with run_server(config.model_copy(update={"partitions": 1})) as server:
        wallet = await server.wallet(USD=100)
        for number in range(20):
            await server.authorize(wallet, f"h{number}", USD=1)
            await server.commit(wallet, f"h{number}", USD=1)
        await server.debits(wallet, at_least=20)
        client = server.audit.stores.nodes.of(0)

        async def trimmed() -> bool:
            return int(await client.xlen(keys.outbox(0, 1))) <= 1  # the last one proves the history

        await until(trimmed)
        await server.assert_conserved(wallet)


async def test_a_server_without_a_flusher_leaves_the_outbox_to_another(config: Config) -> None:
    async with run_server(config.model_copy(update={"flusher": False})) as server:
        wallet = await server.wallet(USD=100)
        await server.authorize(wallet, "h1", USD=1)
        await server.commit(wallet, "h1", USD=1)
        assert await server.entries(wallet) == []
        async with run_server(config):
            await server.debits(wallet, at_least=1)
        await server.assert_conserved(wallet)


@pytest.mark.parametrize("flushers", [3])
async def test_several_flushers_record_everything_once(config: Config, flushers: int) -> None:
    servers: list[Server] = []

    async def with_servers(left: int) -> None:
        if left:
            async with run_server(config) as server:
                servers.append(server)
                await with_servers(left - 1)
            return
        wallet = await servers[0].wallet(USD=1000)
        for number in range(60):
            server = servers[number % flushers]
            await server.authorize(wallet, f"h{number}", USD=2)
            await server.commit(wallet, f"h{number}", USD=1)
        await servers[0].debits(wallet, at_least=60)
        await servers[0].assert_conserved(wallet)

    await with_servers(flushers)


async def test_wallets_and_assets_page_by_name(config: Config) -> None:
    async with run_server(config) as server:
        for number in range(5):
            await server.wallet(f"w{number}")
        found = await pages(server, wallet_pb.ListWalletsRequest(page_size=2), "wallets")
        assert [[wallet.wallet_id for wallet in page] for page in found] == [["w0", "w1"], ["w2", "w3"], ["w4"]]
        found = await pages(server, asset_pb.ListAssetsRequest(page_size=2), "assets")
        assert [[asset.asset for asset in page] for page in found] == [["EUR", "TOKENS"], ["USD"]]
        assert len((await server.call(wallet_pb.ListWalletsRequest(page_size=2_000_000_000))).wallets) == 5
