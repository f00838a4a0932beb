"""Batch: many calls in one message, each as if it had been sent alone."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest
from google.rpc import error_details_pb2
from structlog.testing import capture_logs

import drawdown
from drawdown.v1 import authorization_service_pb2 as pb
from drawdown_server.errors import CODES, ErrorReason
from drawdown_server.identity.scopes import Scope
from drawdown_server.rpc.transport import OPERATION_BYTES_MAX
from faults.mutations import MUTATIONS, prepared
from integration.credentials import create_key, with_keys
from integration.server import amounts, authorize_request, commit_request, failure_of, run_server

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from drawdown_server.config import Config
    from integration.server import Rpc, Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPERATIONS_MAX: Final = 256


def operation(request: Message) -> pb.Operation:
    name = type(request).__name__.removesuffix("Request").lower()
    return pb.Operation(**{name: request})  # type: ignore[arg-type]  # the field of this request


async def batch(rpc: Rpc, *requests: Message) -> list[Any]:
    """The answers, and the errors, of calls that are sent as one Batch."""
    reply = await rpc.call(pb.BatchRequest(operations=[operation(request) for request in requests]))
    return [getattr(result, result.WhichOneof("result")) for result in reply.results]


def reason_of(error: pb.OperationError) -> str:
    info = error_details_pb2.ErrorInfo()
    assert error.details[0].Unpack(info)
    assert error.code == CODES[ErrorReason(info.reason)].value[0]
    return info.reason.removeprefix("ERROR_REASON_")


@pytest.mark.parametrize("name", [name.capitalize() for name in pb.Operation.DESCRIPTOR.fields_by_name])
async def test_an_operation_is_answered_as_the_call_alone(server: Server, name: str) -> None:
    alone, carried = [await prepared(server, MUTATIONS[name]) for _ in range(2)]
    one = await server.call(MUTATIONS[name].request(alone))
    [other] = await batch(server, MUTATIONS[name].request(carried))
    assert type(other) is type(one)
    for reply, wallet in ((one, alone), (other, carried)):
        assert reply.hold.wallet_id == wallet
        reply.hold.wallet_id = ""
        for field in ("create_time", "expire_time", "settle_time"):
            reply.hold.ClearField(field)
        reply.hold.hold_token = b""
    assert other == one
    await server.assert_conserved(alone, carried)


async def test_each_fails_by_itself_and_the_results_are_in_order(server: Server) -> None:
    wallet = await server.wallet(USD=100)
    approved, invalid, denied, unknown, nothing, nobody = (
        await server.call(
            pb.BatchRequest(
                operations=[
                    operation(authorize_request(wallet, "h", USD=60)),
                    operation(authorize_request(wallet, "a b", USD=0)),
                    operation(authorize_request(wallet, "more", USD=60)),
                    operation(commit_request(wallet, "never-was", USD=1)),
                    pb.Operation(),
                    operation(authorize_request("nobody", "h", USD=1)),
                ]
            )
        )
    ).results
    assert approved.authorize.decision == pb.DECISION_APPROVED
    assert reason_of(invalid.error) == "INVALID_FIELD"
    bad = error_details_pb2.BadRequest()
    assert invalid.error.details[1].Unpack(bad)
    assert [violation.field for violation in bad.field_violations] == ["hold_id", "amounts[0].units"]
    assert denied.authorize.denial.reason == pb.DENIAL_REASON_INSUFFICIENT_FUNDS
    assert reason_of(unknown.error) == "HOLD_NOT_FOUND"
    assert reason_of(nothing.error) == "INVALID_FIELD"
    assert nobody.authorize.denial.reason == pb.DENIAL_REASON_WALLET_NOT_FOUND
    await server.assert_conserved(wallet)


async def test_operations_of_one_wallet_take_effect_in_order(server: Server, shared_config: Config) -> None:
    """Also on a server that has to ask Postgres for the assets first, and for the grants that a refund is about."""
    wallet, other = await server.wallet(USD=100, TOKENS=10), await server.wallet(USD=100)
    async with run_server(shared_config, assets=False) as new:
        held, committed, charged, refunded, released, late, elsewhere = await batch(
            new,
            authorize_request(wallet, "h", USD=100),
            commit_request(wallet, "h", USD=90),
            pb.ChargeRequest(wallet_id=wallet, charge_id="c", amounts=amounts(USD=10, TOKENS=10)),
            pb.RefundRequest(wallet_id=wallet, hold_id="c", refund_id="r", amounts=amounts(USD=4)),
            pb.ReleaseRequest(wallet_id=wallet, hold_id="late"),
            authorize_request(wallet, "late", USD=1),
            authorize_request(other, "h", USD=100),
        )
        assert held.decision == charged.decision == elsewhere.decision == pb.DECISION_APPROVED
        assert committed.debited[0].units == 90
        assert (committed.wallet_sequence, charged.wallet_sequence, refunded.wallet_sequence) == (3, 4, 5)
        assert released.hold.hold_id == "late"
        assert late.decision == pb.DECISION_APPROVED or late.denial.reason == pb.DENIAL_REASON_HOLD_RELEASED
        await server.assert_conserved(wallet, other)


async def test_a_batch_of_256_is_answered_and_again_as_a_replay(server: Server) -> None:
    wallets = [await server.wallet(USD=1_000) for _ in range(4)]
    requests = [authorize_request(wallets[n % 4], f"h{n}", USD=1) for n in range(OPERATIONS_MAX)]
    first = await batch(server, *requests)
    again = await batch(server, *requests)
    assert [reply.hold.hold_id for reply in first] == [f"h{n}" for n in range(OPERATIONS_MAX)]
    assert not any(reply.replayed for reply in first)
    assert all(reply.replayed for reply in again)
    for wallet in wallets:
        assert (await server.balance(wallet)).held_units == OPERATIONS_MAX // 4
    await server.assert_conserved(*wallets)


async def test_the_same_id_twice_in_one_batch_is_one_hold(server: Server) -> None:
    wallet = await server.wallet(USD=100)
    first, again, other = await batch(
        server,
        authorize_request(wallet, "h", USD=10),
        authorize_request(wallet, "h", USD=10),
        authorize_request(wallet, "h", USD=11),
    )
    assert (first.replayed, again.replayed, reason_of(other)) == (False, True, "ID_REUSED")
    assert (await server.balance(wallet)).held_units == 10
    await server.assert_conserved(wallet)


async def test_an_operation_beyond_its_size_is_refused_and_the_others_go_on(server: Server) -> None:
    wallet = await server.wallet(USD=10)
    large, small = await batch(
        server, authorize_request(wallet, "x" * OPERATION_BYTES_MAX, USD=1), authorize_request(wallet, "h", USD=1)
    )
    assert reason_of(large) == "REQUEST_TOO_LARGE"
    assert small.decision == pb.DECISION_APPROVED
    await server.assert_conserved(wallet)


async def test_a_batch_that_comes_too_late_does_nothing(server: Server) -> None:
    wallet = await server.wallet(USD=10)
    request = pb.BatchRequest(operations=[operation(authorize_request(wallet, "h", USD=1))])
    failure = await failure_of(server.method("Batch")(request, timeout=0.001))
    assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await server.balance(wallet)).held_units == 0
    await server.assert_conserved(wallet)


async def test_each_counts_as_a_call_and_only_so_many_get_in(shared_config: Config) -> None:
    crowded = shared_config.model_copy(update={"calls_max": 8})
    async with run_server(crowded, assets=False) as server:
        wallets = [await server.wallet(USD=10) for _ in range(10)]
        replies = await batch(server, *(authorize_request(wallet, "h", USD=1) for wallet in wallets))
        refused = [reply for reply in replies if isinstance(reply, pb.OperationError)]
        assert {reason_of(error) for error in refused} == {"OVERLOADED"}
        assert len(refused) == 4  # a quarter of 8 is for those that settle
        settled = await batch(
            server,
            *(pb.ReleaseRequest(wallet_id=wallet, hold_id="h") for wallet in wallets[:6]),
            *(authorize_request(wallet, "g", USD=1) for wallet in wallets[6:8]),
        )
        assert [reason_of(each) for each in settled if isinstance(each, pb.OperationError)] == ["OVERLOADED"] * 2
        await server.assert_conserved(*wallets)


async def test_each_counts_for_the_rate_of_its_credential(shared_config: Config) -> None:
    async with run_server(shared_config.model_copy(update={"caller_calls_per_s": 20}), assets=False) as server:
        replies = await batch(server, *(pb.ReleaseRequest(wallet_id="w", hold_id=f"h{n}") for n in range(100)))
        limited = [reply for reply in replies if reason_of(reply) == "RATE_LIMITED"]
        assert 60 <= len(limited) <= 61  # a second's calls may come at once, and as many again that settle


async def test_each_has_a_line_in_the_log_and_so_has_the_batch(shared_config: Config) -> None:
    with capture_logs() as logs:
        async with run_server(shared_config.model_copy(update={"log_sample_ratio": 1.0}), assets=False) as server:
            wallet = await server.wallet(USD=10)
            await batch(server, authorize_request(wallet, "h", USD=1), commit_request(wallet, "nobody", USD=1))
            await server.assert_conserved(wallet)
    told = [(line["method"].rpartition("/")[2], line["code"]) for line in logs if line["event"] == "rpc"]
    assert sorted(told[-3:]) == [("Authorize", "OK"), ("Batch", "OK"), ("Commit", "NOT_FOUND")]


async def test_a_key_without_the_scope_may_send_no_batch(shared_config: Config) -> None:
    config = with_keys(shared_config)
    async with run_server(
        config, assets=False, credential=await create_key(config, "r", scopes=[Scope.READ])
    ) as reader:
        failure = await reader.failure(pb.BatchRequest(operations=[operation(commit_request("w", "h", USD=1))]))
        assert (failure.code, failure.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")


@pytest.mark.parametrize("flavour", ["async", "sync"])
async def test_the_client_has_values_and_exceptions_in_place(server: Server, flavour: str) -> None:
    wallet = await server.wallet(USD=100)
    target = f"127.0.0.1:{server.port}"
    sent = [
        drawdown.Authorize(wallet_id=wallet, amounts={"USD": 60}),
        drawdown.Authorize(wallet_id=wallet, amounts={"USD": 60}),
        drawdown.Commit(wallet_id=wallet, hold_id="never-was", amounts={"USD": 1}),
        drawdown.Charge(wallet_id=wallet, charge_id="c", amounts={"USD": 40}),
        drawdown.Refund(wallet_id=wallet, hold_id="c", refund_id="r", amounts={"USD": 4}),
        drawdown.Extend(wallet_id=wallet, hold_id="never-was", ttl_s=math.pi),
        drawdown.Release(wallet_id=wallet, hold_id="never-was"),
    ]
    if flavour == "async":
        async with drawdown.AsyncClient(target) as client:
            results = await client.batch(operations=sent)
    else:

        def call() -> list[drawdown.OperationResult | drawdown.DrawdownError]:
            with drawdown.Client(target) as client:
                return client.batch(operations=sent)

        results = await asyncio.to_thread(call)
    approved, denied, unknown, charged, refunded, gone, released = results
    assert isinstance(approved, drawdown.Authorization)
    assert isinstance(sent[0], drawdown.Authorize)
    assert approved.hold_id == sent[0].hold_id
    assert isinstance(denied, drawdown.Authorization)
    assert not denied.approved
    assert isinstance(unknown, drawdown.NotFoundError)
    assert isinstance(charged, drawdown.ChargeResult)
    assert charged.debited == {"USD": 40}
    assert isinstance(refunded, drawdown.RefundResult)
    assert isinstance(gone, drawdown.NotFoundError)
    assert isinstance(released, drawdown.ReleaseResult)
    await server.assert_conserved(wallet)
