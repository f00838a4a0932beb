"""How failures travel: the interceptor over real gRPC, with services that are broken on purpose."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NoReturn

import grpc
import pytest
from structlog.testing import capture_logs

from drawdown.v1 import asset_service_pb2 as asset_pb
from drawdown.v1 import asset_service_pb2_grpc, authorization_service_pb2_grpc
from drawdown.v1 import authorization_service_pb2 as pb
from drawdown_server.errors import (
    CODES,
    DrawdownError,
    ErrorReason,
    InvalidRequestError,
    StoreUnavailableError,
    Violation,
)
from drawdown_server.identity.caller import Caller, current_tenant
from drawdown_server.identity.credentials import Credentials
from drawdown_server.identity.scopes import ALL_SCOPES
from drawdown_server.rpc.admission import Admission
from drawdown_server.rpc.calls import CallRecorder
from drawdown_server.rpc.denials import Denials
from drawdown_server.rpc.gate import Gate
from drawdown_server.rpc.methods import Methods
from drawdown_server.telemetry.metrics import Metrics
from drawdown_server.telemetry.tracing import Tracing
from integration.server import Rpc, failure_of, open_channel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from drawdown_server.identity.admin_call import AdminCall

SENSITIVE = "connection to postgres://admin:hunter2@db failed"


class BrokenAssets(asset_service_pb2_grpc.AssetServiceServicer):
    """Raises what it is given."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    async def GetAsset(self, request: asset_pb.GetAssetRequest, context: object) -> NoReturn:  # noqa: ARG002, N802
        raise self.error


class NoStore:
    """Of denied calls: the caller here may do everything."""

    async def record_denied(self, call: AdminCall) -> None:
        pytest.fail(f"{call} was denied")


class WhoAmI(asset_service_pb2_grpc.AssetServiceServicer):
    """Answers with the tenant of the caller."""

    async def GetAsset(self, request: object, context: object) -> asset_pb.GetAssetResponse:  # noqa: ARG002, N802
        response = asset_pb.GetAssetResponse()
        response.asset.display_name = current_tenant()
        return response


@asynccontextmanager
async def serving(servicer: asset_service_pb2_grpc.AssetServiceServicer) -> AsyncIterator[Rpc]:
    recorder = CallRecorder(Metrics(), Tracing(), log_sample_ratio=0)
    credentials = Credentials(everybody=Caller("acme", "", ALL_SCOPES))
    admission = Admission(calls_max=100, calls_per_s=0)
    methods = Methods(Gate(credentials, recorder, admission, Denials(NoStore())))
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([methods])
    asset_service_pb2_grpc.add_AssetServiceServicer_to_server(servicer, methods)
    authorization_service_pb2_grpc.add_AuthorizationServiceServicer_to_server(
        authorization_service_pb2_grpc.AuthorizationServiceServicer(), methods
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with open_channel(port) as channel:
            yield Rpc(channel)
    finally:
        await server.stop(None)


@pytest.mark.parametrize(
    "error", [RuntimeError(SENSITIVE), AssertionError(SENSITIVE), KeyError(SENSITIVE), OSError(SENSITIVE)], ids=repr
)
async def test_an_unexpected_exception_is_internal_and_says_nothing(error: Exception) -> None:
    with capture_logs() as logs:
        async with serving(BrokenAssets(error)) as rpc:
            failure = await rpc.failure(asset_pb.GetAssetRequest(asset="USD"))
    assert (failure.code, failure.message) == (grpc.StatusCode.INTERNAL, "internal error")
    assert (failure.reason, failure.metadata, failure.retry_ms) == ("INTERNAL", {}, None)
    (line,) = [log for log in logs if log["event"] == "rpc.failed"]
    assert line["log_level"] == "error"
    assert line["exc_info"]
    assert line["method"] == "drawdown.v1.AssetService/GetAsset"


@pytest.mark.parametrize("reason", ErrorReason)
async def test_every_reason_arrives_with_its_code(reason: ErrorReason) -> None:
    error = DrawdownError(reason, "what happened to ü", key="value ü")
    async with serving(BrokenAssets(error)) as rpc:
        failure = await rpc.failure(asset_pb.GetAssetRequest(asset="USD"))
    assert failure.code is CODES[reason]
    assert failure.message == "what happened to ü"
    assert (f"ERROR_REASON_{failure.reason}", failure.metadata) == (reason.value, {"key": "value ü"})
    assert (failure.retry_ms is not None) == (failure.code is grpc.StatusCode.UNAVAILABLE)


async def test_violations_arrive_in_order_and_a_store_that_is_down_says_when_to_retry() -> None:
    violations = [Violation("b", "must be x"), Violation("a[0].c", "must be y")]
    async with serving(BrokenAssets(InvalidRequestError(violations))) as rpc:
        failure = await rpc.failure(asset_pb.GetAssetRequest(asset="USD"))
    assert (failure.fields, failure.metadata) == (("b", "a[0].c"), {"field": "b"})
    assert failure.message == "b must be x; a[0].c must be y"
    async with serving(BrokenAssets(StoreUnavailableError("valkey"))) as rpc:
        failure = await rpc.failure(asset_pb.GetAssetRequest(asset="USD"))
    assert (failure.code, failure.retry_ms, failure.metadata) == (grpc.StatusCode.UNAVAILABLE, 50, {"store": "valkey"})


async def test_the_caller_is_set_for_the_handler() -> None:
    async with serving(WhoAmI()) as rpc:
        reply = await rpc.call(asset_pb.GetAssetRequest(asset="USD"))
    assert reply.asset.display_name == "acme"


async def test_a_method_that_is_not_there_is_unimplemented() -> None:
    async with serving(WhoAmI()) as rpc:
        unknown = rpc.channel.unary_unary("/drawdown.v1.AuthorizationService/Extend")
        assert (await failure_of(unknown(b"", timeout=5))).code is grpc.StatusCode.UNIMPLEMENTED


async def test_a_method_without_code_is_unimplemented() -> None:
    async with serving(WhoAmI()) as rpc:
        failure = await rpc.failure(pb.GetHoldRequest(wallet_id="w", hold_id="h"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED")


@pytest.mark.parametrize(
    "raw", [b"\xff\xff\xff", b"\x0a\x02\xff\xfe", b"\x0a\x7f"], ids=["garbage", "not UTF-8", "short"]
)
async def test_bytes_that_are_no_request_are_an_invalid_argument(raw: bytes) -> None:
    async with serving(WhoAmI()) as rpc:
        call = rpc.channel.unary_unary("/drawdown.v1.AssetService/GetAsset")
        failure = await failure_of(call(raw, timeout=5))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert "protobuf" not in failure.message
