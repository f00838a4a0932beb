"""Whatever comes in, the server answers: with an error that names a rule, never INTERNAL, a traceback or nothing.

``make test`` sends some hundred inputs of each kind, the same ones each time; ``make soak`` sends ``FUZZ_INPUTS`` of
each, 10,000 unless said otherwise, other ones each time: hypothesis prints how to make a failure again. Every wallet
that was in it has right books at the end.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import balance_service_pb2 as balance_pb
from drawdown.v1 import key_service_pb2 as key_pb
from drawdown.v1 import types_pb2
from drawdown_server.errors import ErrorReason
from faults.mutations import methods
from integration.credentials import run_keyed_server
from integration.hostile import damaged, garbled, texts
from integration.server import DEADLINE_S, Rpc, duration, until
from integration.test_rpc_bad_input import BASE, FAR, HOLD, WALLET

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from google.protobuf.message import Message
    from hypothesis.strategies import DataObject

    from drawdown_server.dev.postgres import PostgresProcess
    from drawdown_server.dev.valkey import ValkeyProcess
    from integration.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

INPUTS: Final = 400
SOAK_INPUTS: Final = int(os.environ.get("FUZZ_INPUTS", "10_000"))
INPUTS_PER_WALLET: Final = 25
"""Then a new one: many of the inputs settle its holds, freeze it or close it."""
MESSAGE_CHARS_MAX: Final = 4096
"""A status travels in HTTP/2 headers, which have a limit."""
ANSWERS: Final = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
}
"""What a caller may be told of a bad input, beside OK: no fault of the server, and nothing to retry."""
LEAKS: Final = ("Traceback", "asyncpg", "redis", "Exception", "Error:", ".py", "lua", "SELECT ", "INSERT ")
"""Words that tell where an answer comes from; requests that contain one of them are not looked at for it."""

KEY: Final = "new"
REQUESTS: Final[dict[str, Callable[[], Any]]] = BASE | {
    "CreateApiKey": lambda: key_pb.CreateApiKeyRequest(
        key_id=KEY, scopes=[types_pb2.SCOPE_READ], expire_time=Timestamp(seconds=FAR)
    ),
    "ListApiKeys": key_pb.ListApiKeysRequest,
    "RotateApiKey": lambda: key_pb.RotateApiKeyRequest(key_id=KEY, rotation_id="new", overlap=duration(60)),
    "RevokeApiKey": lambda: key_pb.RevokeApiKeyRequest(key_id=KEY),
    "CreateWalletToken": lambda: key_pb.CreateWalletTokenRequest(wallet_id=WALLET, ttl=duration(60)),
}
"""A valid request of every RPC but Session, which has a test of its own."""
SESSION: Final = "/drawdown.v1.AuthorizationService/Session"

QUICK: Final = settings(
    max_examples=INPUTS, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
SOAK: Final = settings(
    max_examples=SOAK_INPUTS, deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck)
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(valkey_process: ValkeyProcess, postgres_process: PostgresProcess) -> AsyncIterator[Server]:
    """A server that wants a credential, called with one that may do everything."""
    async with run_keyed_server(valkey_process, postgres_process) as running:
        yield running


class Victims:
    """Wallets with funds, an open hold and a debit, of which one is in use."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._left = 0
        self.wallet_ids: list[str] = []

    async def wallet_id(self) -> str:
        """A wallet that was not often hit yet."""
        if self._left == 0:
            # Of one length: where an input is cut is drawn from how long it is, and the same draws must fit again.
            wallet = await self._server.wallet(f"victim-{len(self.wallet_ids):06}", USD=100, TOKENS=100)
            await self._server.authorize(wallet, HOLD, ttl_s=3600, USD=10, TOKENS=10)
            await self._server.authorize(wallet, "settled", USD=10)
            await self._server.commit(wallet, "settled", USD=10)
            self.wallet_ids.append(wallet)
            self._left = INPUTS_PER_WALLET
        self._left -= 1
        return self.wallet_ids[-1]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def victims(server: Server) -> AsyncIterator[Victims]:
    victims = Victims(server)
    yield victims
    await server.assert_conserved(*victims.wallet_ids)


def path_of(request: Message) -> str:
    """The path of the method that takes these requests."""
    name = type(request).__name__.removesuffix("Request")
    for service in request.DESCRIPTOR.file.services_by_name.values():
        if name in service.methods_by_name:
            return f"/{service.full_name}/{name}"
    raise AssertionError(f"no method takes {name}Request")


async def valid_request(victims: Victims, rpc: str) -> Message:
    """A request that would be answered, for a wallet that exists."""
    request: Any = REQUESTS[rpc]()
    if "wallet_id" in request.DESCRIPTOR.fields_by_name:
        request.wallet_id = await victims.wallet_id()
    for operation in getattr(request, "operations", ()):
        getattr(operation, operation.WhichOneof("operation")).wallet_id = await victims.wallet_id()
    return request  # type: ignore[no-any-return]


async def assert_answered(
    server: Server, path: str, raw: bytes, metadata: tuple[tuple[str, str | bytes], ...] = ()
) -> None:
    """The server answers these bytes, or says what is wrong with them."""
    send = server.channel.unary_unary(path)
    with capture_logs() as logs:
        try:
            reply = await send(raw, timeout=DEADLINE_S, metadata=(*server.metadata, *metadata))
        except grpc.aio.AioRpcError as error:
            status = rpc_status.from_call(error)
            assert status is not None, error
            assert_useful(status, raw)
        else:
            for result in pb.BatchResponse.FromString(reply).results if path.endswith("/Batch") else ():
                if result.HasField("error"):
                    assert_useful(result.error, raw)
    failures = [line for line in logs if line["log_level"] in ("error", "critical") or "exc_info" in line]
    assert not failures


def assert_useful(
    status: Any,  # noqa: ANN401 - a google.rpc.Status, or what has its fields
    raw: bytes,
    answers: set[grpc.StatusCode] = ANSWERS,
) -> None:
    """The error is the caller's, says so with a reason, and tells nothing of what is behind."""
    assert status.code in {code.value[0] for code in answers}, status
    assert status.message.isprintable()
    assert len(status.message) < MESSAGE_CHARS_MAX
    told = [word for word in LEAKS if word in status.message and word.encode() not in raw]
    assert not told, status.message
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.reason in list(ErrorReason)
    assert info.reason != ErrorReason.INTERNAL


async def check_hostile_fields(server: Server, victims: Victims, data: DataObject) -> None:
    request = await valid_request(victims, data.draw(st.sampled_from(sorted(REQUESTS))))
    hostile = data.draw(damaged(request))
    await assert_answered(server, path_of(request), hostile.SerializeToString())


async def check_bytes(server: Server, victims: Victims, data: DataObject) -> None:
    request = await valid_request(victims, data.draw(st.sampled_from(sorted(REQUESTS))))
    await assert_answered(server, path_of(request), data.draw(garbled(request)))


async def test_every_rpc_is_tried() -> None:
    assert set(REQUESTS) | {"Session"} == set(methods())


@QUICK
@given(data=st.data())
async def test_a_message_with_hostile_fields_is_answered(server: Server, victims: Victims, data: DataObject) -> None:
    await check_hostile_fields(server, victims, data)


@QUICK
@given(data=st.data())
async def test_bytes_that_may_be_no_message_are_answered(server: Server, victims: Victims, data: DataObject) -> None:
    await check_bytes(server, victims, data)


@QUICK
@given(data=st.data())
async def test_a_session_answers_hostile_operations_or_ends_with_a_reason(
    server: Server, victims: Victims, data: DataObject
) -> None:
    names = st.sampled_from(sorted(pb.Operation.DESCRIPTOR.fields_by_name))
    request = pb.SessionRequest()
    for tag, name in enumerate(data.draw(st.lists(names, min_size=1, max_size=3))):
        operation = pb.Operation(**{name: await valid_request(victims, name.capitalize())})
        request.operations.add(tag=tag, operation=operation)
    hostile = data.draw(damaged(request) | damaged(request.operations[0]).map(lambda one: [one]))
    if isinstance(hostile, list):
        hostile = pb.SessionRequest(operations=hostile)
    raw = data.draw(st.just(hostile.SerializeToString()) | garbled(request))
    with capture_logs() as logs:
        stream = server.channel.stream_stream(SESSION)(iter([raw]), timeout=DEADLINE_S, metadata=server.metadata)
        try:
            async for reply in stream:
                for result in pb.SessionResponse.FromString(reply).results:
                    if result.result.HasField("error"):
                        assert_useful(result.result.error, raw, ANSWERS | {grpc.StatusCode.DEADLINE_EXCEEDED})
        except grpc.aio.AioRpcError as error:
            status = rpc_status.from_call(error)
            assert status is not None, error
            assert_useful(status, raw)
    failures = [line for line in logs if line["log_level"] in ("error", "critical") or "exc_info" in line]
    assert not failures


@pytest.mark.soak
@pytest.mark.timeout(3600)
@SOAK
@given(data=st.data())
async def test_ten_thousand_messages_with_hostile_fields_are_answered(
    server: Server, victims: Victims, data: DataObject
) -> None:
    await check_hostile_fields(server, victims, data)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@SOAK
@given(data=st.data())
async def test_ten_thousand_inputs_of_any_bytes_are_answered(
    server: Server, victims: Victims, data: DataObject
) -> None:
    await check_bytes(server, victims, data)


def header_values() -> st.SearchStrategy[str]:
    """What HTTP/2 lets a header carry."""
    hostile = (
        "",
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        "00-" + "0" * 32 + "-" + "0" * 16 + "-01",
        "x" * 4_000,
    )
    return st.sampled_from(hostile) | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=100)


@QUICK
@given(
    key=st.sampled_from(("traceparent", "tracestate", "baggage", "user-agent", "content-language", "x-anything")),
    value=header_values(),
    binary=st.binary(max_size=200),
)
async def test_hostile_metadata_changes_nothing(
    server: Server, victims: Victims, key: str, value: str, binary: bytes
) -> None:
    request = balance_pb.GetBalanceRequest(wallet_id=await victims.wallet_id())
    metadata: tuple[tuple[str, str | bytes], ...] = ((key, value), ("grpc-trace-bin", binary), ("any-bin", binary))
    await assert_answered(server, path_of(request), request.SerializeToString(), metadata)


@QUICK
@given(data=st.data())
async def test_a_hostile_credential_is_like_none(server: Server, victims: Victims, data: DataObject) -> None:
    ((_, genuine),) = server.metadata
    at = data.draw(st.integers(0, len(genuine) - 1))
    damaged_key = st.sampled_from(
        (genuine[:at], genuine[:at] + "~" + genuine[at + 1 :], genuine[:at] + genuine[at + 1 :])
    )
    value = data.draw(header_values() | damaged_key | header_values().map("Bearer {}".format))
    twice = data.draw(st.booleans())
    rpc = Rpc(server.channel)
    rpc.metadata = [("authorization", value)] * (1 + twice)
    request = balance_pb.GetBalanceRequest(wallet_id=await victims.wallet_id())
    with capture_logs() as logs:
        failure = await rpc.failure(request)
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert not [line for line in logs if line["log_level"] in ("error", "critical") or "exc_info" in line]


@QUICK
@given(name=texts().map(lambda text: text.encode("ascii", "ignore").decode()))
async def test_a_method_that_does_not_exist_is_unimplemented(server: Server, name: str) -> None:
    path = "/drawdown.v1.BalanceService/" + "".join(c for c in name if c.isalnum())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.channel.unary_unary(path)(b"", timeout=DEADLINE_S)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@QUICK
@given(preface=st.booleans(), noise=st.binary(min_size=1, max_size=500))
async def test_noise_on_the_wire_ends_its_own_connection_and_no_other(
    server: Server, victims: Victims, *, preface: bool, noise: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write((PREFACE if preface else b"") + noise)
    writer.write_eof()

    async def ended() -> bool:
        try:
            return not await reader.read(65536)
        except ConnectionError:
            return True

    await until(ended)
    writer.close()
    await server.balance(await victims.wallet_id())
