"""The same id again: the same content gives the same answer, other content is named, for ever."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from drawdown.v1 import asset_service_pb2 as asset_pb
from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import balance_service_pb2 as balance_pb
from drawdown.v1 import types_pb2
from drawdown.v1 import wallet_service_pb2 as wallet_pb
from drawdown_server.ledger.reconcile import reconcile_wallet
from integration.server import (
    amounts,
    authorize_request,
    commit_request,
    duration,
    grant_request,
    run_server,
    until,
)

if TYPE_CHECKING:
    from drawdown_server.config import Config
    from integration.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOMBSTONE_MS = 1_000


def full_request(wallet: str) -> pb.AuthorizeRequest:
    request = authorize_request(wallet, "h1", ttl_s=60, USD=10, TOKENS=5)
    request.subjects.extend(["key:a", "user:b"])
    request.labels["run"] = "1"
    return request


def reordered(request: pb.AuthorizeRequest) -> None:
    """The order of amounts and subjects is no content."""
    request.ClearField("amounts")
    request.amounts.extend(amounts(TOKENS=5, USD=10))
    request.ClearField("subjects")
    request.subjects.extend(["user:b", "key:a"])


async def test_authorize_again_answers_the_same_hold(server: Server) -> None:
    wallet = await server.wallet(USD=100, TOKENS=100)
    first = await server.call(full_request(wallet))
    other_order = full_request(wallet)
    reordered(other_order)
    for request in (full_request(wallet), other_order):
        again = await server.call(request)
        assert (again.decision, again.replayed) == (pb.DECISION_APPROVED, True)
        assert again.hold == first.hold
    assert (await server.balance(wallet)).held_units == 10
    await server.assert_conserved(wallet)


async def test_authorize_again_with_other_content_names_the_field(shared_config: Config) -> None:
    changes: dict[str, list[dict[str, Any]]] = {
        "amounts": [{"amounts": amounts(USD=11, TOKENS=5)}, {"amounts": amounts(USD=10)},
                    {"amounts": amounts(USD=10, EUR=5)}, {"amounts": amounts(USD=10, TOKENS=5, EUR=1)}],
        "ttl": [{"ttl": duration(61)}],
        "subjects": [{"subjects": ["key:a"]}, {"subjects": ["key:a", "user:c"]}, {"subjects": []}],
        "overage_policy": [{"overage_policy": types_pb2.OVERAGE_POLICY_REJECT}],
        "expiry_action": [{"expiry_action": types_pb2.EXPIRY_ACTION_RELEASE}],
        "labels": [{"labels": {"run": "2"}}, {"labels": {"run": "1", "x": ""}}],
    }  # fmt: skip
    async with run_server(shared_config) as server:
        wallet = await server.wallet(USD=100, TOKENS=100)
        first = await server.call(full_request(wallet))
        for field, others in changes.items():
            for other in others:
                request = full_request(wallet)
                request.ClearField(field)
                request.MergeFrom(pb.AuthorizeRequest(**other))
                failure = await server.failure(request)
                assert (failure.code, failure.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ID_REUSED"), other
                assert failure.metadata == {"resource": "hold", "id": "h1", "field": field}, other
        without_ttl = full_request(wallet)
        without_ttl.ClearField("ttl")
        assert (await server.failure(without_ttl)).metadata == {"resource": "hold", "id": "h1", "field": "ttl"}
        assert await server.get_hold(wallet, "h1") == first.hold
        await server.assert_conserved(wallet)


async def test_a_denied_authorize_may_be_tried_again_with_the_same_id(server: Server) -> None:
    wallet = await server.wallet(USD=5)
    assert (await server.authorize(wallet, "h1", USD=6)).decision == pb.DECISION_DENIED
    await server.grant(wallet, "more", "USD", 1)
    reply = await server.authorize(wallet, "h1", USD=6)
    assert (reply.decision, reply.replayed) == (pb.DECISION_APPROVED, False)
    await server.assert_conserved(wallet)


async def test_a_settled_hold_answers_while_it_is_remembered(server: Server) -> None:
    wallet = await server.wallet(USD=100, TOKENS=10)
    await server.authorize(wallet, "h1", USD=10, TOKENS=5)
    first = await server.commit(wallet, "h1", USD=7)
    for units in ({"USD": 7}, {"USD": 7, "TOKENS": 0}, {"TOKENS": 0, "USD": 7}, {"TOKENS": 0}):
        again = await server.commit(wallet, "h1", **units)
        assert again.replayed
        again.replayed = False
        assert again == first
    for units in ({"USD": 8}, {"USD": 7, "TOKENS": 1}, {"USD": 7, "EUR": 1}, {"TOKENS": 1}):
        failure = await server.failure(commit_request(wallet, "h1", **units))
        assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "HOLD_COMMITTED"), units
        assert failure.metadata == {"wallet_id": wallet, "hold_id": "h1", "field": "amounts"}
    failure = await server.failure(pb.ReleaseRequest(wallet_id=wallet, hold_id="h1"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "HOLD_COMMITTED")
    replayed = await server.authorize(wallet, "h1", USD=10, TOKENS=5)
    assert (replayed.replayed, replayed.hold.state) == (True, types_pb2.HOLD_STATE_COMMITTED)
    await server.authorize(wallet, "h2", USD=10)
    await server.release(wallet, "h2")
    failure = await server.failure(commit_request(wallet, "h2", USD=1))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "HOLD_RELEASED")
    await server.assert_conserved(wallet)


async def forgotten(server: Server, wallet: str, hold_id: str) -> None:
    """Wait until Valkey has forgotten a settled hold: then only the ledger remembers."""
    holds = server.audit.stores.holds

    async def gone() -> bool:
        try:
            await holds.read_hold(server.config.tenant, wallet, hold_id)
        except Exception as error:
            return "does not exist or was settled too long ago" in str(error)
        return False

    await until(gone)


async def test_when_valkey_has_forgotten_a_hold_the_ledger_answers(shared_config: Config) -> None:
    async with run_server(shared_config.model_copy(update={"tombstone_ms": TOMBSTONE_MS})) as server:
        wallet = await server.wallet(USD=100, TOKENS=10)
        request = authorize_request(wallet, "h1", USD=10, TOKENS=5)
        request.subjects.append("key:a")
        request.labels["run"] = "1"
        await server.call(request)
        first = await server.commit(wallet, "h1", USD=7)
        await server.authorize(wallet, "released", USD=10)
        await server.release(wallet, "released")
        await forgotten(server, wallet, "h1")
        await forgotten(server, wallet, "released")

        hold = await server.get_hold(wallet, "h1")
        assert (hold.state, hold.wallet_id, hold.hold_id) == (types_pb2.HOLD_STATE_COMMITTED, wallet, "h1")
        for amount in first.hold.amounts:
            amount.ClearField("overage_policy")  # the ledger remembers money, not policies
        assert list(hold.amounts) == list(first.hold.amounts)
        assert (hold.create_time, hold.settle_time) == (first.hold.create_time, first.hold.settle_time)
        assert (list(hold.subjects), dict(hold.labels)) == (["key:a"], {"run": "1"})

        for units in ({"USD": 7}, {"TOKENS": 0, "USD": 7}, {"TOKENS": 0}):
            again = await server.commit(wallet, "h1", **units)
            assert (again.replayed, again.late, again.wallet_sequence) == (True, False, first.wallet_sequence)
            assert (list(again.debited), list(again.released)) == (list(first.debited), list(first.released))
            assert list(again.balances) == list(first.balances)
        for units in ({"USD": 8}, {"USD": 7, "TOKENS": 1}, {"USD": 7, "EUR": 1}, {"TOKENS": 1}):
            failure = await server.failure(commit_request(wallet, "h1", **units))
            assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "HOLD_COMMITTED"), units
        failure = await server.failure(pb.ReleaseRequest(wallet_id=wallet, hold_id="h1"))
        assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "HOLD_COMMITTED")

        # A released hold left no event: for the ledger it never was.
        for lost in (
            commit_request(wallet, "released", USD=1),
            pb.GetHoldRequest(wallet_id=wallet, hold_id="released"),
        ):
            assert (await server.failure(lost)).reason == "HOLD_NOT_FOUND"
        await server.assert_conserved(wallet)


async def test_a_hold_id_used_again_when_valkey_has_forgotten_it_is_a_debit_of_its_own(shared_config: Config) -> None:
    async with run_server(shared_config.model_copy(update={"tombstone_ms": TOMBSTONE_MS})) as server:
        wallet = await server.wallet(USD=100)
        await server.authorize(wallet, "h1", USD=10)
        await server.commit(wallet, "h1", USD=7)
        await forgotten(server, wallet, "h1")
        again = await server.authorize(wallet, "h1", USD=10)
        assert (again.decision, again.replayed) == (pb.DECISION_APPROVED, False)
        assert (await server.commit(wallet, "h1", USD=8)).wallet_sequence == 3
        assert [entry.units for entry in await server.debits(wallet, at_least=2)] == [7, 8]
        report = await reconcile_wallet(server.audit, server.audit.stores.ledger, shared_config.tenant, wallet)
        assert report.clean, report.differences
        await forgotten(server, wallet, "h1")
        assert (await server.commit(wallet, "h1", USD=8)).wallet_sequence == 3  # the latest use answers


@pytest.mark.parametrize("kind", ["asset", "wallet", "grant"])
async def test_creating_again_answers_the_same_or_names_the_other_field(server: Server, kind: str) -> None:
    wallet = await server.wallet()
    request: Any
    others: dict[str, Any]
    if kind == "asset":
        request = asset_pb.CreateAssetRequest(asset="NEW", scale=3, display_name="n")
        others = {"scale": 4, "display_name": "m"}
    elif kind == "wallet":
        request = wallet_pb.CreateWalletRequest(wallet_id="new", display_name="n", labels={"a": "1"})
        others = {"display_name": "m", "labels": {"a": "2"}}
    else:
        request = grant_request(wallet, "new", "USD", 5)
        request.labels["a"] = "1"
        others = {"asset": "EUR", "units": 6, "priority": 51, "source": 2, "labels": {"a": "2"}}
    first = await server.call(request)
    again = await server.call(request)
    assert MessageToDict(again)[kind] == MessageToDict(first)[kind]
    if kind == "grant":
        assert (first.replayed, again.replayed) == (False, True)
        assert again.balance == first.balance
    for field, value in others.items():
        other = type(request)()
        other.CopyFrom(request)
        if isinstance(value, dict):
            other.labels.clear()
            other.labels.update(value)
        else:
            setattr(other, field, value)
        failure = await server.failure(other)
        assert (failure.code, failure.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ID_REUSED"), field
        assert failure.metadata is not None
        assert (failure.metadata["resource"], failure.metadata["field"]) == (kind, field)
    assert await server.call(type(request).FromString(request.SerializeToString())) == again
    await server.assert_conserved(wallet)


async def test_the_default_priority_is_the_same_content_as_no_priority(server: Server) -> None:
    wallet = await server.wallet()
    await server.grant(wallet, "g", "USD", 5)
    request = grant_request(wallet, "g", "USD", 5)
    request.priority = 50
    assert (await server.call(request)).replayed


async def test_one_grant_id_is_one_grant_however_many_send_it_at_once(server: Server) -> None:
    wallet = await server.wallet()
    replies = await asyncio.gather(*(server.grant(wallet, "g", "USD", 7) for _ in range(50)))
    assert sorted(reply.replayed for reply in replies) == [False] + [True] * 49
    assert {reply.balance.available_units for reply in replies} == {7}
    assert (await server.call(balance_pb.GetBalanceRequest(wallet_id=wallet))).wallet_sequence == 1
    await server.assert_conserved(wallet)


async def test_different_grants_at_once_all_arrive(server: Server) -> None:
    wallet = await server.wallet()
    replies = await asyncio.gather(*(server.grant(wallet, f"g{n}", "USD", n) for n in range(1, 31)))
    assert not any(reply.replayed for reply in replies)
    # Each answer shows at least its own grant.
    assert all(reply.balance.settled_units >= reply.grant.units for reply in replies)
    assert (await server.balance(wallet)).available_units == sum(range(1, 31))
    await server.assert_conserved(wallet)


async def test_one_hold_id_is_one_hold_however_many_send_it_at_once(server: Server) -> None:
    wallet = await server.wallet(USD=100)
    replies = await asyncio.gather(*(server.authorize(wallet, "h", USD=7) for _ in range(50)))
    assert sorted(reply.replayed for reply in replies) == [False] + [True] * 49
    commits = await asyncio.gather(*(server.commit(wallet, "h", USD=5) for _ in range(50)))
    assert sorted(commit.replayed for commit in commits) == [False] + [True] * 49
    assert len({commit.wallet_sequence for commit in commits}) == 1
    await server.assert_conserved(wallet)


async def test_commit_and_release_at_once_have_one_winner(server: Server) -> None:
    wallet = await server.wallet(USD=1000)
    for number in range(20):
        hold_id = f"h{number}"
        await server.authorize(wallet, hold_id, USD=10)
        results = await asyncio.gather(
            server.release(wallet, hold_id), server.commit(wallet, hold_id, USD=10), return_exceptions=True
        )
        assert sum(isinstance(result, grpc.aio.AioRpcError) for result in results) == 1, results
    await server.assert_conserved(wallet)
