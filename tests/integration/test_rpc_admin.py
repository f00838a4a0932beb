"""Assets, wallets, grants, balances and entries through gRPC: every field, every page."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from drawdown.v1 import asset_service_pb2 as asset_pb
from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import balance_service_pb2 as balance_pb
from drawdown.v1 import grant_service_pb2 as grant_pb
from drawdown.v1 import ledger_service_pb2 as ledger_pb
from drawdown.v1 import types_pb2
from drawdown.v1 import wallet_service_pb2 as wallet_pb
from integration.server import grant_request, pages

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from integration.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")


def is_now(moment: Timestamp) -> bool:
    return abs(moment.ToMilliseconds() - time.time_ns() // 1_000_000) < 60_000


async def test_an_asset_as_it_is_created_read_and_listed(server: Server) -> None:
    request = asset_pb.CreateAssetRequest(
        asset="GPU_SECONDS",
        scale=12,
        display_name="GPU-Sekunden ü",
        default_overage_policy=types_pb2.OVERAGE_POLICY_REJECT,
    )
    asset = (await server.call(request)).asset
    assert (asset.asset, asset.scale, asset.display_name) == ("GPU_SECONDS", 12, "GPU-Sekunden ü")
    assert asset.default_overage_policy == types_pb2.OVERAGE_POLICY_REJECT
    assert is_now(asset.create_time)
    assert (await server.call(asset_pb.GetAssetRequest(asset="GPU_SECONDS"))).asset == asset
    assert asset in (await server.call(asset_pb.ListAssetsRequest())).assets


async def test_a_wallet_as_it_is_created_read_and_changed(server: Server) -> None:
    request = wallet_pb.CreateWalletRequest(
        wallet_id="acme/eu:1", display_name="Acme", labels={"tier": "gold", "k": ""}
    )
    wallet = (await server.call(request)).wallet
    assert (wallet.wallet_id, wallet.display_name, wallet.state) == ("acme/eu:1", "Acme", types_pb2.WALLET_STATE_ACTIVE)
    assert dict(wallet.labels) == {"tier": "gold", "k": ""}
    assert is_now(wallet.create_time)
    assert wallet.update_time == wallet.create_time
    get = wallet_pb.GetWalletRequest(wallet_id="acme/eu:1")
    assert (await server.call(get)).wallet == wallet
    frozen = (await server.call(wallet_pb.FreezeWalletRequest(wallet_id="acme/eu:1", reason="fraud"))).wallet
    assert frozen.state == types_pb2.WALLET_STATE_FROZEN
    assert frozen.update_time.ToNanoseconds() > wallet.update_time.ToNanoseconds()
    again = (await server.call(wallet_pb.FreezeWalletRequest(wallet_id="acme/eu:1"))).wallet
    assert again == frozen == (await server.call(get)).wallet
    assert (await server.call(balance_pb.GetBalanceRequest(wallet_id="acme/eu:1"))).state == frozen.state
    active = (await server.call(wallet_pb.UnfreezeWalletRequest(wallet_id="acme/eu:1"))).wallet
    assert active.state == types_pb2.WALLET_STATE_ACTIVE
    balance = await server.call(balance_pb.GetBalanceRequest(wallet_id="acme/eu:1"))
    assert (balance.state, balance.wallet_sequence) == (types_pb2.WALLET_STATE_ACTIVE, 2)
    await server.assert_conserved("acme/eu:1")


async def test_a_grant_as_it_is_created_read_and_listed(server: Server) -> None:
    wallet = await server.wallet()
    request = grant_pb.CreateGrantRequest(
        wallet_id=wallet,
        grant_id="invoice/7",
        asset="USD",
        units=5_000_000,
        priority=0,
        source=types_pb2.GRANT_SOURCE_PROMOTION,
        labels={"campaign": "spring"},
    )
    reply = await server.call(request)
    grant = reply.grant
    assert (grant.wallet_id, grant.grant_id, grant.asset) == (wallet, "invoice/7", "USD")
    assert (grant.units, grant.remaining_units) == (5_000_000, 5_000_000)
    assert (grant.HasField("priority"), grant.priority) == (True, 0)
    assert grant.source == types_pb2.GRANT_SOURCE_PROMOTION
    assert not grant.HasField("effective_time")
    assert not grant.HasField("expire_time")
    assert dict(grant.labels) == {"campaign": "spring"}
    assert is_now(grant.create_time)
    assert (reply.balance.asset, reply.balance.available_units, reply.balance.settled_units) == (
        "USD",
        *[5_000_000] * 2,
    )
    assert not reply.replayed
    get = grant_pb.GetGrantRequest(wallet_id=wallet, grant_id="invoice/7")
    assert (await server.call(get)).grant == grant
    assert list((await server.call(grant_pb.ListGrantsRequest(wallet_id=wallet))).grants) == [grant]
    await server.assert_conserved(wallet)


async def test_a_grant_without_priority_burns_in_the_middle(server: Server) -> None:
    reply = await server.grant(await server.wallet(), "g", "USD", 1)
    assert reply.grant.priority == 50


async def test_a_balance_with_its_grants_in_burn_order(server: Server) -> None:
    wallet = await server.wallet()
    for grant_id, priority, source in (
        ("late", 90, types_pb2.GRANT_SOURCE_PURCHASE),
        ("bought", 50, types_pb2.GRANT_SOURCE_PURCHASE),
        ("gift", 50, types_pb2.GRANT_SOURCE_PROMOTION),
        ("first", 10, types_pb2.GRANT_SOURCE_ADJUSTMENT),
    ):
        request = grant_request(wallet, grant_id, "USD", 10)
        request.priority, request.source = priority, source
        await server.call(request)
    await server.grant(wallet, "eur", "EUR", 3)
    await server.authorize(wallet, "h1", USD=25)
    reply = await server.call(balance_pb.GetBalanceRequest(wallet_id=wallet, include_grants=True))
    assert [balance.asset for balance in reply.balances] == ["EUR", "USD"]
    usd = reply.balances[1]
    assert (usd.settled_units, usd.held_units, usd.available_units) == (40, 25, 15)
    assert (usd.debt_units, usd.overdraft_limit_units) == (0, 0)
    assert [(g.grant_id, g.available_units, g.held_units, g.priority) for g in usd.grants] == [
        ("first", 0, 10, 10),
        ("gift", 0, 10, 50),
        ("bought", 5, 5, 50),
        ("late", 10, 0, 90),
    ]
    assert usd.grants[0].source == types_pb2.GRANT_SOURCE_ADJUSTMENT
    assert (reply.wallet_sequence, reply.open_holds, reply.state) == (5, 1, types_pb2.WALLET_STATE_ACTIVE)
    plain = await server.call(balance_pb.GetBalanceRequest(wallet_id=wallet, assets=["USD", "TOKENS"]))
    assert [(b.asset, b.available_units, len(b.grants)) for b in plain.balances] == [("USD", 15, 0), ("TOKENS", 0, 0)]
    await server.commit(wallet, "h1", USD=15)

    debits = await server.debits(wallet, at_least=2)
    assert [(entry.grant_id, entry.units) for entry in debits] == [("first", 10), ("gift", 5)]
    left = (await server.call(grant_pb.GetGrantRequest(wallet_id=wallet, grant_id="gift"))).grant.remaining_units
    assert left == 5
    await server.assert_conserved(wallet)


async def test_entries_with_their_accounts_filters_and_pages(server: Server) -> None:
    wallet = await server.wallet(USD=100, EUR=100)
    for number in range(3):
        await server.authorize(wallet, f"h{number}", USD=10, EUR=5)
        await server.commit(wallet, f"h{number}", USD=10, EUR=5)
    await server.debits(wallet, at_least=6)
    entries = await server.entries(wallet)
    assert [(entry.wallet_sequence, entry.line) for entry in entries] == [
        (1, 1), (2, 1), (3, 1), (3, 2), (4, 1), (4, 2), (5, 1), (5, 2),
    ]  # fmt: skip
    funding, debit = entries[0], entries[2]
    assert (funding.kind, funding.debit_account) == (types_pb2.ENTRY_KIND_GRANT, "funding:purchase")
    assert (funding.credit_account, funding.grant_id, funding.hold_id) == (f"wallet:{wallet}", "g-USD", "")
    assert (debit.kind, debit.debit_account, debit.credit_account) == (
        types_pb2.ENTRY_KIND_DEBIT,
        f"wallet:{wallet}",
        "revenue",
    )
    assert (debit.hold_id, debit.grant_id, debit.units, debit.wallet_id) == ("h0", "g-USD", 10, wallet)
    assert is_now(debit.occurred_time)
    request = ledger_pb.ListEntriesRequest(wallet_id=wallet, page_size=3)
    assert [len(page) for page in await pages(server, request, "entries")] == [3, 3, 2]
    request = ledger_pb.ListEntriesRequest(wallet_id=wallet, page_size=1, asset="EUR")
    found = await pages(server, request, "entries")
    assert [page[0].units for page in found[:4]] == [100, 5, 5, 5]
    assert {entry.hold_id for entry in await server.entries(wallet, hold_id="h1")} == {"h1"}
    assert [entry.asset for entry in await server.entries(wallet, hold_id="h1", asset="EUR")] == ["EUR"]
    assert await server.entries(wallet, hold_id="other") == []
    await server.assert_conserved(wallet)


async def test_grants_page_oldest_first_and_by_asset(server: Server) -> None:
    wallet = await server.wallet()
    for number in range(5):
        await server.grant(wallet, f"g{9 - number}", "USD" if number % 2 == 0 else "EUR", 1)
    found = await pages(server, grant_pb.ListGrantsRequest(wallet_id=wallet, page_size=2), "grants")
    assert [[grant.grant_id for grant in page] for page in found] == [["g9", "g8"], ["g7", "g6"], ["g5"]]
    found = await pages(server, grant_pb.ListGrantsRequest(wallet_id=wallet, page_size=3, asset="USD"), "grants")
    assert [[grant.grant_id for grant in page] for page in found] == [["g9", "g7", "g5"], []]


async def test_what_does_not_exist_is_not_found(server: Server) -> None:
    wallet = await server.wallet(USD=1)
    missing = {
        "WALLET_NOT_FOUND": [
            wallet_pb.GetWalletRequest(wallet_id="nobody"),
            wallet_pb.FreezeWalletRequest(wallet_id="nobody"),
            wallet_pb.UnfreezeWalletRequest(wallet_id="nobody"),
            balance_pb.GetBalanceRequest(wallet_id="nobody"),
            ledger_pb.ListEntriesRequest(wallet_id="nobody"),
            grant_pb.ListGrantsRequest(wallet_id="nobody"),
            grant_request("nobody", "g", "USD", 1),
        ],
        "ASSET_NOT_FOUND": [
            asset_pb.GetAssetRequest(asset="NOPE"),
            balance_pb.GetBalanceRequest(wallet_id=wallet, assets=["USD", "NOPE"]),
            grant_request(wallet, "g", "NOPE", 1),
        ],
        "GRANT_NOT_FOUND": [
            grant_pb.GetGrantRequest(wallet_id=wallet, grant_id="x"),
            grant_pb.GetGrantRequest(wallet_id="nobody", grant_id="x"),
        ],
    }
    for reason, requests in missing.items():
        for request in requests:
            failure = await server.failure(request)
            assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, reason), request
            assert failure.metadata
    await server.assert_conserved(wallet)


async def test_a_grant_that_would_leave_the_range_of_balances_is_refused(server: Server) -> None:
    wallet = await server.wallet(USD=2**53 - 10)
    failure = await server.failure(grant_request(wallet, "more", "USD", 10))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BALANCE_OUT_OF_RANGE")
    assert failure.metadata is not None
    assert failure.metadata["asset"] == "USD"
    assert (await server.grant(wallet, "more", "USD", 9)).balance.available_units == 2**53 - 1
    await server.assert_conserved(wallet)


async def list_requests(server: Server) -> dict[str, Any]:
    """One of each list, with more than one page."""
    wallet = await server.wallet(USD=50, EUR=50)
    for number in range(2):
        await server.authorize(wallet, f"h{number}", USD=1)
    await server.commit(wallet, "h1", USD=1)
    await server.authorize(wallet, "h2", USD=1)
    await server.debits(wallet, at_least=1)
    return {
        "wallets": wallet_pb.ListWalletsRequest(page_size=1),
        "assets": asset_pb.ListAssetsRequest(page_size=1),
        "grants": grant_pb.ListGrantsRequest(wallet_id=wallet, page_size=1),
        "grants of an asset": grant_pb.ListGrantsRequest(wallet_id=wallet, page_size=1, asset="USD"),
        "holds": pb.ListHoldsRequest(wallet_id=wallet, page_size=1),
        "entries": ledger_pb.ListEntriesRequest(wallet_id=wallet, page_size=1),
        "entries of an asset": ledger_pb.ListEntriesRequest(wallet_id=wallet, page_size=1, asset="USD"),
        "entries of a hold": ledger_pb.ListEntriesRequest(wallet_id=wallet, page_size=1, hold_id="h1"),
    }


async def test_a_page_token_opens_its_own_list_only(server: Server) -> None:
    requests = await list_requests(server)
    others = await list_requests(server)
    await server.wallet()
    tokens = {name: (await server.call(request)).next_page_token for name, request in requests.items()}
    foreign = {
        f"other wallet's {name}": (await server.call(request)).next_page_token for name, request in others.items()
    }
    del foreign["other wallet's wallets"], foreign["other wallet's assets"]
    for name, request in requests.items():
        for owner, token in {**tokens, **foreign}.items():
            assert token, owner
            request.page_token = token
            if owner == name:
                await server.call(request)
                continue
            failure = await server.failure(request)
            assert (failure.code, failure.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("page_token",)), (name, owner)


@pytest.mark.parametrize("token", ["x", "not a token", "AAAA", "ü", "=", "\0", "a" * 5000])
async def test_a_broken_page_token_is_refused_by_every_list(server: Server, token: str) -> None:
    for name, request in (await list_requests(server)).items():
        request.page_token = token
        failure = await server.failure(request)
        assert (failure.code, failure.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("page_token",)), name
