"""The audit log: one record per call that changed something, with what was before and after, and nobody else's."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import grpc
import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp

from drawdown.v1 import asset_service_pb2 as asset_pb
from drawdown.v1 import audit_service_pb2 as audit_pb
from drawdown.v1 import grant_service_pb2 as grant_pb
from drawdown.v1 import key_service_pb2 as key_pb
from drawdown.v1 import types_pb2
from drawdown.v1 import wallet_service_pb2 as wallet_pb
from drawdown_server.identity.scopes import Scope
from drawdown_server.rpc.admin_calls import TARGETS
from faults.mutations import MUTATIONS, WITHOUT_A_WALLET, prepared
from integration.credentials import create_key, with_keys
from integration.server import Rpc, Server, duration, failure_of, grant_request, pages, run_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


pytestmark = pytest.mark.asyncio(loop_scope="module")

ACTIVE: Final = {"state": "ACTIVE"}
GRANT: Final = {"asset": "USD", "units": 5, "priority": 50, "source": "PURCHASE"}
IN_2100: Final = "2100-01-01T00:00:00Z"
EXPECTED: Final[dict[str, tuple[str, Any, Any]]] = {
    "CreateWallet": ("wallet:{}", None, ACTIVE),
    "FreezeWallet": ("wallet:{}", ACTIVE, {"state": "FROZEN"}),
    "UnfreezeWallet": ("wallet:{}", {"state": "FROZEN"}, ACTIVE),
    "CloseWallet": ("wallet:{}", ACTIVE, {"state": "CLOSED"}),
    "SetOverdraftLimit": ("overdraft:USD", {"overdraft_limit_units": 0}, {"overdraft_limit_units": 50}),
    "CreateGrant": ("grant:more", None, GRANT),
    "VoidGrant": ("grant:more", GRANT, GRANT | {"void_time": ...}),
    "SetGrantExpiry": ("grant:more", GRANT, GRANT | {"expire_time": IN_2100}),
    "SetCap": ("cap:key:1|USD|LIFETIME", None, {"limit_units": 9, "mode": "ENFORCE"}),
    "RemoveCap": ("cap:key:1|USD|LIFETIME", {"limit_units": 9, "mode": "ENFORCE"}, None),
    "ForceRelease": (
        "hold:h",
        {"state": "HELD", "held": {"USD": 10}, "expire_time": ...},
        {"state": "EXPIRED", "expire_time": ...},
    ),
}
"""Target, before and after; ``...`` is whatever it is."""


def plain(text: str) -> Any:  # noqa: ANN401 - JSON
    return json.loads(text) if text else None


def without(state: Any, expected: Any) -> Any:  # noqa: ANN401 - JSON
    """A state in which what is whatever it is, is."""
    if state is None or expected is None:
        return state
    return {name: ... if expected.get(name) is ... else value for name, value in state.items()}


async def records(rpc: Rpc, **filters: Any) -> list[audit_pb.AuditRecord]:  # noqa: ANN401 - any filter
    """All records, the newest first."""
    found = await pages(rpc, audit_pb.ListAuditRecordsRequest(page_size=1000, **filters), "records")
    return [record for page in found for record in page]


async def test_every_method_of_administrators_has_an_expectation() -> None:
    assert {method.partition("/")[2] for method in TARGETS} == set(EXPECTED) | WITHOUT_A_WALLET


@pytest.mark.parametrize("name", EXPECTED)
async def test_a_call_leaves_one_record_with_before_and_after_and_its_repeat_none(server: Server, name: str) -> None:
    mutation, (target, before, after) = MUTATIONS[name], EXPECTED[name]
    if name == "CreateWallet":
        wallet = f"new-{uuid4().hex[:8]}"
        seen: set[str] = set()
    else:
        wallet = await prepared(server, mutation)
        seen = {record.audit_id for record in await records(server, wallet_id=wallet)}
    request = mutation.request(wallet)
    await server.call(request)

    (record,) = [each for each in await records(server, wallet_id=wallet) if each.audit_id not in seen]
    assert record.method.partition("/")[2] == name
    assert (record.wallet_id, record.target) == (wallet, target.format(wallet))
    assert without(plain(record.before_json), before) == before
    assert without(plain(record.after_json), after) == after
    assert plain(record.request_json)["wallet_id"] == wallet
    assert (record.principal, record.trace_id) == ("", "")
    intended = name == "ForceRelease"
    assert record.outcome == (audit_pb.AUDIT_OUTCOME_INTENDED if intended else audit_pb.AUDIT_OUTCOME_DONE)

    once = await records(server, wallet_id=wallet)
    await server.call(request)
    assert await records(server, wallet_id=wallet) == once
    await server.assert_conserved(wallet)


async def test_an_asset_leaves_one_record(server: Server) -> None:
    asset = f"N{uuid4().hex[:8].upper()}"
    for _ in range(2):
        await server.call(asset_pb.CreateAssetRequest(asset=asset, scale=3, display_name="New"))
    (record,) = await records(server, target=f"asset:{asset}")
    assert (record.wallet_id, record.before_json) == ("", "")
    assert plain(record.after_json) == {
        "scale": 3, "display_name": "New", "default_overage_policy": "CHARGE_AVAILABLE"
    }  # fmt: skip


async def test_a_wallet_that_was_closed_empty_was_active_before(server: Server) -> None:
    """It is frozen while it is looked at, which is no more than a step of the call."""
    wallet = await server.wallet()
    await server.call(wallet_pb.CloseWalletRequest(wallet_id=wallet))
    newest, _ = await records(server, wallet_id=wallet)
    assert (plain(newest.before_json), plain(newest.after_json)) == (ACTIVE, {"state": "CLOSED"})


async def test_a_call_that_is_refused_leaves_no_record(server: Server) -> None:
    wallet = await server.wallet(USD=10)
    before = await records(server, wallet_id=wallet)
    for request in (
        wallet_pb.CloseWalletRequest(wallet_id=wallet),  # not empty
        wallet_pb.CreateWalletRequest(wallet_id=wallet, display_name="other"),
        grant_request(wallet, "g-USD", "USD", 11),
        grant_request(wallet, "new", "NONE", 11),
        grant_pb.VoidGrantRequest(wallet_id=wallet, grant_id="never-was"),
    ):
        await failure_of(server.call(request))
    await failure_of(server.call(MUTATIONS["ForceRelease"].request(wallet)))
    assert await records(server, wallet_id=wallet) == before


async def test_the_same_call_a_hundred_times_at_once_leaves_one_record(server: Server) -> None:
    wallet = await server.wallet()
    await asyncio.gather(*(server.call(grant_request(wallet, "g", "USD", 5)) for _ in range(100)))
    assert len(await records(server, target="grant:g", wallet_id=wallet)) == 1
    await server.assert_conserved(wallet)


async def test_a_trace_is_told(server: Server) -> None:
    wallet, trace_id = await server.wallet(), uuid4().hex
    request = wallet_pb.FreezeWalletRequest(wallet_id=wallet, reason="fraud")
    metadata = [("traceparent", f"00-{trace_id}-00f067aa0ba902b7-00")]
    await server.method("FreezeWallet")(request, metadata=metadata)
    newest, _ = await records(server, wallet_id=wallet)
    assert newest.trace_id == trace_id
    assert plain(newest.request_json) == {"wallet_id": wallet, "reason": "fraud"}


async def test_filters_and_pages(server: Server) -> None:
    wallet, other = await server.wallet(USD=1, EUR=2), await server.wallet(USD=3)
    whole = await records(server, wallet_id=wallet)
    assert [record.target for record in whole] == ["grant:g-EUR", "grant:g-USD", f"wallet:{wallet}"]
    times = [record.audit_time.ToMilliseconds() for record in whole]
    assert times == sorted(times, reverse=True)
    by_one = await pages(server, audit_pb.ListAuditRecordsRequest(wallet_id=wallet, page_size=1), "records")
    assert [record for page in by_one for record in page] == whole
    assert [r.wallet_id for r in (await records(server, target="grant:g-USD"))[:2]] == [other, wallet]
    assert await records(server, principal="key:nobody") == []

    newest = whole[0].audit_time
    after = Timestamp()
    after.FromMilliseconds(newest.ToMilliseconds() + 1)
    assert whole[0] not in await records(server, wallet_id=wallet, end_time=newest)
    assert whole[0] in await records(server, wallet_id=wallet, start_time=newest)
    assert await records(server, wallet_id=wallet, start_time=after) == []
    assert await records(server, wallet_id=wallet, end_time=after) == whole


# --- who ---


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keyed(server: Server) -> AsyncIterator[Server]:
    """A server beside the first one that knows who calls."""
    config = with_keys(server.config)
    secret = await create_key(config, "ops", tenant="keyed")
    async with run_server(config, credential=secret) as running:
        yield running


async def key(server: Server, key_id: str, tenant: str, *scopes: Scope) -> Rpc:
    return Rpc(server.channel, await create_key(server.config, key_id, tenant=tenant, scopes=scopes))


async def test_a_record_says_which_credential_called(keyed: Server) -> None:
    wallet = await keyed.wallet(USD=1)
    billing = await key(keyed, "billing", "keyed", Scope.FUNDS)
    await billing.call(grant_request(wallet, "more", "USD", 1))
    (record,) = await records(keyed, principal="key:billing")
    assert (record.target, record.wallet_id) == ("grant:more", wallet)
    assert {record.principal for record in await records(keyed, wallet_id=wallet)} == {"key:ops", "key:billing"}


async def test_a_call_without_the_scope_leaves_a_record_that_says_so(keyed: Server) -> None:
    wallet = await keyed.wallet()
    reader = await key(keyed, "reader", "keyed", Scope.READ)
    failure = await reader.failure(wallet_pb.FreezeWalletRequest(wallet_id=wallet, reason="mine"))
    assert failure.code is grpc.StatusCode.PERMISSION_DENIED
    (record,) = await records(keyed, principal="key:reader")
    assert record.outcome == audit_pb.AUDIT_OUTCOME_DENIED
    assert (record.method, record.target) == ("WalletService/FreezeWallet", f"wallet:{wallet}")
    assert (record.before_json, record.after_json) == ("", "")
    assert plain(record.request_json) == {}
    await failure_of(reader.call(audit_pb.ListAuditRecordsRequest()))  # a read: no record
    assert len(await records(keyed, principal="key:reader")) == 1


async def test_keys_leave_one_record_each_with_the_names_of_their_secrets_alone(keyed: Server) -> None:
    create = key_pb.CreateApiKeyRequest(key_id="fresh", scopes=[types_pb2.SCOPE_READ], display_name="New")
    rotate = key_pb.RotateApiKeyRequest(key_id="fresh", rotation_id="r1", overlap=duration(60))
    revoke = key_pb.RevokeApiKeyRequest(key_id="fresh")
    made, _ = [await keyed.call(request) for request in (create, create)]
    rotated, _ = [await keyed.call(request) for request in (rotate, rotate)]
    for request in (revoke, revoke):
        await keyed.call(request)
    revoked, turned, created = await records(keyed, target="key:fresh")
    assert [each.method for each in (created, turned, revoked)] == [
        "KeyService/CreateApiKey", "KeyService/RotateApiKey", "KeyService/RevokeApiKey"
    ]  # fmt: skip
    assert {each.principal for each in (created, turned, revoked)} == {"key:ops"}
    first = plain(created.after_json)
    assert (first["display_name"], first["scopes"], len(first["secrets"])) == ("New", ["read"], 1)
    assert plain(turned.before_json) == first
    assert plain(turned.request_json) == {"key_id": "fresh", "rotation_id": "r1", "overlap": "60s"}
    assert len(plain(turned.after_json)["secrets"]) == 2
    assert "revoke_time" in plain(revoked.after_json)
    for secret in (made.secret, rotated.secret):
        assert secret.rpartition("_")[2] not in str([created, turned, revoked])


async def test_a_key_that_would_do_more_than_its_maker_leaves_a_record_that_says_so(keyed: Server) -> None:
    maker = await key(keyed, "maker", "keyed", Scope.ADMIN)
    await failure_of(maker.call(key_pb.CreateApiKeyRequest(key_id="more", scopes=[types_pb2.SCOPE_FUNDS])))
    (record,) = await records(keyed, principal="key:maker")
    assert (record.target, record.outcome) == ("key:more", audit_pb.AUDIT_OUTCOME_DENIED)


async def test_the_records_of_another_tenant_are_not_there(keyed: Server) -> None:
    wallet = await keyed.wallet(USD=1)
    stranger = await key(keyed, "ops", "stranger", *Scope)
    assert await records(stranger, wallet_id=wallet) == []
    await stranger.call(wallet_pb.CreateWalletRequest(wallet_id=wallet))
    assert [record.target for record in await records(stranger)] == [f"wallet:{wallet}"]
    first = await keyed.call(audit_pb.ListAuditRecordsRequest(wallet_id=wallet, page_size=1))
    request = audit_pb.ListAuditRecordsRequest(wallet_id=wallet, page_size=1, page_token=first.next_page_token)
    theirs = await stranger.call(request)
    assert {record.principal for record in theirs.records} <= {"key:ops"}
    assert all(plain(record.request_json) == {"wallet_id": wallet} for record in theirs.records)
