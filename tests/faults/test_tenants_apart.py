"""One tenant uses the ids of another: exactly like ids that nobody ever used, and the other notices nothing.

One server, and a key of each tenant.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import asyncpg
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from drawdown.v1 import asset_service_pb2 as asset_pb
from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import balance_service_pb2 as balance_pb
from drawdown.v1 import cap_service_pb2 as cap_pb
from drawdown.v1 import grant_service_pb2 as grant_pb
from drawdown.v1 import key_service_pb2 as key_pb
from drawdown.v1 import ledger_service_pb2 as ledger_pb
from drawdown.v1 import types_pb2
from drawdown.v1 import wallet_service_pb2 as wallet_pb
from faults.mutations import CARRIERS, MUTATIONS, WITHOUT_A_WALLET, batch, cap, methods, story, told
from integration.audit import open_audit
from integration.credentials import create_key, run_keyed_server
from integration.server import Rpc, Server, authorize_request, pages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from google.protobuf.message import Message

    from drawdown_server.dev.postgres import PostgresProcess
    from drawdown_server.dev.valkey import ValkeyProcess

pytestmark = pytest.mark.asyncio(loop_scope="module")

READS: Final[dict[str, Callable[[str], Message]]] = {
    "GetHold": lambda w: pb.GetHoldRequest(wallet_id=w, hold_id="h"),
    "ListHolds": lambda w: pb.ListHoldsRequest(wallet_id=w),
    "GetBalance": lambda w: balance_pb.GetBalanceRequest(wallet_id=w, include_grants=True),
    "GetGrant": lambda w: grant_pb.GetGrantRequest(wallet_id=w, grant_id="more"),
    "ListGrants": lambda w: grant_pb.ListGrantsRequest(wallet_id=w),
    "GetWallet": lambda w: wallet_pb.GetWalletRequest(wallet_id=w),
    "ListCaps": lambda w: cap_pb.ListCapsRequest(wallet_id=w, subjects=["key:1"]),
    "ListEntries": lambda w: ledger_pb.ListEntriesRequest(wallet_id=w),
    "CreateWalletToken": lambda w: key_pb.CreateWalletTokenRequest(wallet_id=w),
}
OF_THE_TENANT: Final = {"GetAsset", "ListAssets", "ListWallets", "ListApiKeys", "ListAuditRecords"} | WITHOUT_A_WALLET
"""RPCs that name no wallet."""
REQUESTS: Final = READS | {name: mutation.request for name, mutation in MUTATIONS.items()} | {"Batch": batch}
MAKES_ITS_OWN: Final = {"CreateWallet"}
ANSWERS_A_SECRET: Final = {"CreateWalletToken"}
"""Another one each time: it has a test of its own."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(valkey_process: ValkeyProcess, postgres_process: PostgresProcess) -> AsyncIterator[Server]:
    """The server, called with a key of one tenant."""
    async with run_keyed_server(valkey_process, postgres_process) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stranger(server: Server) -> AsyncIterator[Server]:
    """The same server, called with a key of another tenant, which has assets and no wallets."""
    config = server.config.model_copy(update={"tenant": "stranger"})
    secret = await create_key(config, tenant="stranger")
    async with open_audit(config) as audit:
        other = Server(server.channel, config, server.port, server.stop, server.task, audit, secret)
        await other.create_assets()
        yield other


async def wallet_with_everything(server: Server) -> str:
    """Holds, charges, grants and caps with the names that ``REQUESTS`` use."""
    wallet = await server.wallet(USD=1_000)
    for name in ("Authorize", "Charge", "CreateGrant", "SetCap"):
        await server.call(MUTATIONS[name].request(wallet))
    await server.assert_conserved(wallet)
    return wallet


async def test_every_rpc_that_names_a_wallet_is_tried() -> None:
    assert {name.partition(".")[0] for name in REQUESTS} | OF_THE_TENANT | CARRIERS == set(methods())


async def test_the_wallet_of_another_tenant_is_like_one_that_never_was(server: Server, stranger: Server) -> None:
    wallet = await wallet_with_everything(server)
    before = await story(server, wallet)
    for name, request in REQUESTS.items():
        if name not in MAKES_ITS_OWN:
            theirs = await told(stranger, request(wallet), wallet)
            assert theirs == await told(stranger, request("never-was"), "never-was"), name
    assert await story(server, wallet) == before
    await server.assert_conserved(wallet)


async def test_holds_grants_and_caps_of_another_tenant_are_like_those_that_never_were(
    server: Server, stranger: Server
) -> None:
    """Both tenants have a wallet of that name: nothing in the one can be reached through the other."""
    for name, request in REQUESTS.items():
        if name in ANSWERS_A_SECRET:
            continue
        wallet = await wallet_with_everything(server)
        before = await story(server, wallet)
        same_name, other_name = await stranger.wallet(wallet, USD=100), await stranger.wallet(USD=100)
        await stranger.assert_conserved(same_name, other_name)
        theirs = await told(stranger, request(same_name), same_name)
        assert theirs == await told(stranger, request(other_name), other_name), name
        await server.assert_conserved(wallet)
        await stranger.assert_conserved(same_name, other_name)
        assert await story(server, wallet) == before, name
        assert await story(stranger, same_name) == await story(stranger, other_name), name


async def test_a_wallet_token_shows_the_wallet_of_its_tenant(server: Server, stranger: Server) -> None:
    wallet = await wallet_with_everything(server)
    same_name = await stranger.wallet(wallet, USD=77)
    token = (await stranger.call(key_pb.CreateWalletTokenRequest(wallet_id=same_name))).token
    assert (await Rpc(server.channel, token).balance(wallet)).settled_units == 77
    await server.assert_conserved(wallet)
    await stranger.assert_conserved(same_name)


async def test_a_page_token_of_another_tenant_shows_only_what_is_ones_own(server: Server, stranger: Server) -> None:
    wallet = await server.wallet(USD=100)
    for number in range(3):
        await server.authorize(wallet, f"h{number}", USD=1)
    own = await stranger.wallet(wallet, USD=100)
    await stranger.authorize(own, "mine", USD=1)
    await server.assert_conserved(wallet)
    await stranger.assert_conserved(own)
    mine = {own} | {each.wallet_id for page in await pages(stranger, wallets(), "wallets") for each in page}
    for request, field, ours in (
        (pb.ListHoldsRequest(wallet_id=wallet, page_size=1), "holds", lambda hold: hold.hold_id == "mine"),
        (grant_pb.ListGrantsRequest(wallet_id=wallet, page_size=1), "grants", lambda grant: grant.grant_id == "g-USD"),
        (ledger_pb.ListEntriesRequest(wallet_id=wallet, page_size=1), "entries", lambda _: True),
        (wallets(), "wallets", lambda each: each.wallet_id in mine),
    ):
        request.page_token = (await server.call(request)).next_page_token
        reply = await stranger.call(request)
        assert all(ours(each) for each in getattr(reply, field)), field


def wallets() -> wallet_pb.ListWalletsRequest:
    return wallet_pb.ListWalletsRequest(page_size=1)


async def test_an_asset_of_another_tenant_is_like_one_that_never_was(server: Server, stranger: Server) -> None:
    await server.call(
        asset_pb.CreateAssetRequest(asset="SECRET", default_overage_policy=types_pb2.OVERAGE_POLICY_REJECT)
    )
    wallet = await stranger.wallet(USD=100)
    for request in (
        lambda code: asset_pb.GetAssetRequest(asset=code),
        lambda code: authorize_request(wallet, "h", **{code: 1}),
        lambda code: grant_pb.CreateGrantRequest(
            wallet_id=wallet, grant_id="g", asset=code, units=1, source=types_pb2.GRANT_SOURCE_PURCHASE
        ),
        lambda code: balance_pb.GetBalanceRequest(wallet_id=wallet, assets=[code]),
        lambda code: cap_pb.SetCapRequest(**(cap(wallet) | {"asset": code}), limit_units=1),
        lambda code: wallet_pb.SetOverdraftLimitRequest(wallet_id=wallet, asset=code, limit_units=1),
    ):
        theirs = await told(stranger, request("SECRET"), "SECRET")
        assert theirs == await told(stranger, request("NO_SUCH"), "NO_SUCH"), request("SECRET")
    listed = await pages(stranger, asset_pb.ListAssetsRequest(), "assets")
    assert "SECRET" not in {asset.asset for page in listed for asset in page}
    await stranger.assert_conserved(wallet)


async def test_a_key_of_another_tenant_is_like_one_that_never_was(server: Server, stranger: Server) -> None:
    scopes = [types_pb2.SCOPE_READ]
    made = await server.call(key_pb.CreateApiKeyRequest(key_id="ours", scopes=scopes))
    for request in (
        lambda key_id: key_pb.RotateApiKeyRequest(key_id=key_id, rotation_id="r"),
        lambda key_id: key_pb.RevokeApiKeyRequest(key_id=key_id),
    ):
        assert await told(stranger, request("ours"), "ours") == await told(stranger, request("never-was"), "never-was")
    listed = await pages(stranger, key_pb.ListApiKeysRequest(page_size=1), "keys")
    assert "ours" not in {key.key_id for page in listed for key in page}
    token = (await server.call(key_pb.ListApiKeysRequest(page_size=1))).next_page_token
    theirs = await stranger.call(key_pb.ListApiKeysRequest(page_token=token))
    assert "ours" not in {key.key_id for key in theirs.keys}
    own = await stranger.call(key_pb.CreateApiKeyRequest(key_id="ours", scopes=[types_pb2.SCOPE_FUNDS]))
    assert own.secret
    assert not own.replayed
    await stranger.call(key_pb.RevokeApiKeyRequest(key_id="ours"))
    again = await server.call(key_pb.CreateApiKeyRequest(key_id="ours", scopes=scopes))
    assert again.key == made.key


# --- where things are kept ---

OF_THE_INSTALLATION: Final = {
    "installation": "the number of partitions",
    "schema_migrations": "which migrations were made",
    "servers": "who serves from which Valkey",
    "partitions": "positions, leases and epochs; a partition holds wallets of many tenants",
    "left_epochs": "which of them are still to be swept",
    "dead_letters": "events that cannot be read may name no tenant",
}
"""Tables whose rows are of no tenant."""
FIRST_COLUMNS: Final = """
SELECT c.relname AS name, (
    SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = c.oid AND i.indisprimary
) AS first
FROM pg_class c
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
"""


async def test_the_primary_key_of_every_table_begins_with_the_tenant(server: Server) -> None:
    connection = await asyncpg.connect(server.config.postgres_url)
    try:
        rows = await connection.fetch(FIRST_COLUMNS)
    finally:
        await connection.close()
    first = {row["name"]: row["first"] for row in rows}
    assert set(first) >= {"wallets", "entries", "balances", "grants", "settled_holds", "api_keys", "api_key_secrets"}
    assert {name for name, column in first.items() if column != "tenant_id"} == set(OF_THE_INSTALLATION)


async def test_every_key_in_valkey_is_of_one_tenant_or_of_a_partition(server: Server, stranger: Server) -> None:
    wallet = await wallet_with_everything(server)
    same_name = await stranger.wallet(wallet, USD=100)
    await stranger.authorize(same_name, "h", USD=1)
    client = Redis.from_url(server.config.valkey_url, decode_responses=True)
    try:
        names = [str(name) async for name in client.scan_iter()]
    finally:
        await client.aclose()
    of_partitions = re.compile(r"\{dd\d+\}:(meta|\d+:(outbox|due))")
    of_wallets = re.compile(r"\{dd\d+\}:\d+:\w+\|(default|stranger)\|[^|]+")
    assert [name for name in names if not (of_partitions.fullmatch(name) or of_wallets.fullmatch(name))] == []
    for tenant in ("default", "stranger"):
        assert any(f"|{tenant}|{wallet}" in name for name in names)
    await server.assert_conserved(wallet)
    await stranger.assert_conserved(same_name)
