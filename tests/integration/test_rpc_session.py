"""Session: calls over one stream, each as if it had been called alone, answered as they are done."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest
from structlog.testing import capture_logs

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown_server import app
from drawdown_server.app import open_stores
from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.identity.scopes import Scope
from drawdown_server.rpc.session import IN_FLIGHT_MAX
from drawdown_server.rpc.transport import OPERATION_BYTES_MAX
from faults.mutations import MUTATIONS, prepared
from integration.credentials import create_key, with_keys
from integration.server import DEADLINE_S, authorize_request, commit_request, duration, failure_of, run_server, until
from integration.test_rpc_batch import operation, reason_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from google.protobuf.message import Message

    from drawdown_server.config import Config
    from integration.server import Rpc, Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG_S: Final = 30.0


class Stream:
    """A Session in the hands of a test."""

    def __init__(self, rpc: Rpc) -> None:
        self.call = rpc.method("Session")(metadata=rpc.metadata, timeout=DEADLINE_S)
        self.results: dict[int, Any] = {}
        self.going_away = False

    async def send(self, *requests: Message, first_tag: int = 1, cancel: Iterable[int] = (), **options: Any) -> None:  # noqa: ANN401
        """Send requests in one message, tagged 1, 2, ..."""
        tagged = [
            pb.SessionOperation(tag=tag, operation=operation(request), **options)
            for tag, request in enumerate(requests, first_tag)
        ]
        await self.call.write(pb.SessionRequest(operations=tagged, cancelled_tags=cancel))

    async def receive(self, count: int) -> dict[int, Any]:
        """All results so far, once there are so many: answers and errors by tag."""
        while len(self.results) < count:
            assert await self.read(), "the stream has ended"
        return self.results

    async def read(self) -> bool:
        """Take one message; False at the end."""
        reply = await self.call.read()
        if reply is grpc.aio.EOF:
            return False
        for tagged in reply.results:
            assert tagged.tag not in self.results
            self.results[tagged.tag] = getattr(tagged.result, tagged.result.WhichOneof("result"))
        self.going_away |= reply.going_away
        return True

    async def end(self) -> grpc.StatusCode:
        """Half-close, take what still comes; how it ended."""
        await self.call.done_writing()
        while await self.read():
            pass
        code: grpc.StatusCode = await self.call.code()
        return code


def slow_commit(wallet: str, hold: str) -> pb.CommitRequest:
    """On a server without a flusher, a call that takes as long as it may."""
    request = commit_request(wallet, hold, USD=1)
    request.wait_for_ledger.CopyFrom(duration(LONG_S))
    return request


@asynccontextmanager
async def slow_server(config: Config, **others: object) -> AsyncIterator[Server]:
    async with run_server(config.model_copy(update={"flusher": False, **others}), assets=False) as server:
        yield server


@pytest.mark.parametrize("name", [name.capitalize() for name in pb.Operation.DESCRIPTOR.fields_by_name])
async def test_an_operation_is_answered_as_the_call_alone(server: Server, name: str) -> None:
    alone, carried = [await prepared(server, MUTATIONS[name]) for _ in range(2)]
    one = await server.call(MUTATIONS[name].request(alone))
    stream = Stream(server)
    await stream.send(MUTATIONS[name].request(carried))
    other = (await stream.receive(1))[1]
    assert await stream.end() is grpc.StatusCode.OK
    for reply in (one, other):
        reply.hold.wallet_id = ""
        for field in ("create_time", "expire_time", "settle_time"):
            reply.hold.ClearField(field)
        reply.hold.hold_token = b""
    assert other == one
    await server.assert_conserved(alone, carried)


async def test_each_fails_by_itself_and_is_answered_under_its_tag(server: Server) -> None:
    wallet = await server.wallet(USD=100)
    stream = Stream(server)
    await stream.send(
        authorize_request(wallet, "h", USD=60),
        authorize_request(wallet, "a b", USD=0),
        commit_request(wallet, "never-was", USD=1),
        authorize_request("nobody", "h", USD=1),
        authorize_request(wallet, "x" * OPERATION_BYTES_MAX, USD=1),
    )
    await stream.receive(5)
    await stream.send(commit_request(wallet, "h", USD=50))  # the tag is free again
    del stream.results[1]
    results = await stream.receive(5)
    assert await stream.end() is grpc.StatusCode.OK
    assert results[1].debited[0].units == 50
    assert [reason_of(results[tag]) for tag in (2, 3, 5)] == ["INVALID_FIELD", "HOLD_NOT_FOUND", "REQUEST_TOO_LARGE"]
    assert results[4].denial.reason == pb.DENIAL_REASON_WALLET_NOT_FOUND
    await server.assert_conserved(wallet)


async def test_a_thousand_operations_are_answered_once_each(server: Server) -> None:
    wallets = [await server.wallet(USD=1_000) for _ in range(4)]
    stream = Stream(server)

    async def send() -> None:
        for n in range(0, 1_000, 50):
            requests = [authorize_request(wallets[m % 4], f"h{m}", USD=1) for m in range(n, n + 50)]
            await stream.send(*requests, first_tag=n)
        await stream.call.done_writing()

    sending = asyncio.create_task(send())
    await stream.receive(1_000)
    await sending
    assert not await stream.read()
    assert {stream.results[n].hold.hold_id for n in range(1_000)} == {f"h{n}" for n in range(1_000)}
    for wallet in wallets:
        assert (await server.balance(wallet)).held_units == 250
    await server.assert_conserved(*wallets)


async def test_an_operation_with_too_little_time_is_not_begun(server: Server) -> None:
    wallet = await server.wallet(USD=10)
    stream = Stream(server)
    await stream.send(authorize_request(wallet, "h", USD=1), timeout=duration(0.001))
    assert reason_of((await stream.receive(1))[1]) == "DEADLINE_EXCEEDED"
    await stream.end()
    assert (await server.balance(wallet)).held_units == 0
    await server.assert_conserved(wallet)


async def test_what_is_cancelled_has_no_result_and_its_tag_is_free(server: Server, shared_config: Config) -> None:
    wallet = await server.wallet(USD=10)
    await server.authorize(wallet, "h", USD=1)
    async with slow_server(shared_config) as slow:
        stream = Stream(slow)
        await stream.send(slow_commit(wallet, "h"))
        await stream.send(pb.ReleaseRequest(wallet_id=wallet, hold_id="other"), first_tag=2, cancel=[1, 77])
        await stream.send(pb.ReleaseRequest(wallet_id=wallet, hold_id="another"))
        assert (await stream.receive(2))[1].hold.hold_id == "another"
        assert await stream.end() is grpc.StatusCode.OK
    await server.assert_conserved(wallet)


async def test_a_tag_in_use_ends_the_stream_and_names_the_field(server: Server, shared_config: Config) -> None:
    wallet = await server.wallet(USD=10)
    await server.authorize(wallet, "h", USD=1)
    async with slow_server(shared_config) as slow:
        stream = Stream(slow)
        await stream.send(slow_commit(wallet, "h"))
        await stream.send(slow_commit(wallet, "h"))
        failure = await failure_of(stream.call.read())
        assert (failure.code, failure.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("operations[0].tag",))
    await server.assert_conserved(wallet)


async def test_bytes_that_are_no_message_end_the_stream(server: Server) -> None:
    stream = server.channel.stream_stream("/drawdown.v1.AuthorizationService/Session")(
        iter([b"\xff"]), timeout=DEADLINE_S
    )
    failure = await failure_of(stream.read())
    assert (failure.code, failure.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("request",))


async def test_no_more_is_read_while_as_many_are_unanswered_as_may_be(server: Server, shared_config: Config) -> None:
    wallet = await server.wallet(USD=1_000)
    await server.authorize(wallet, "h", USD=1)
    async with slow_server(shared_config) as slow:
        stream = Stream(slow)
        waiting = [slow_commit(wallet, "h") for _ in range(IN_FLIGHT_MAX)]
        for commit in waiting:
            commit.wait_for_ledger.CopyFrom(duration(1))
        await stream.send(*waiting, authorize_request(wallet, "later", USD=1))
        results = await stream.receive(IN_FLIGHT_MAX + 1)
        assert list(results)[-1] == IN_FLIGHT_MAX + 1
        assert await stream.end() is grpc.StatusCode.OK
    await server.assert_conserved(wallet)


async def test_a_key_that_is_revoked_stops_a_stream_that_is_open(shared_config: Config) -> None:
    config = with_keys(shared_config)
    key = await create_key(config, "gateway", scopes=[Scope.AUTHORIZE, Scope.WALLETS, Scope.FUNDS])
    async with run_server(config, assets=False, credential=key) as server:
        wallet = await server.wallet(USD=10)
        stream = Stream(server)
        await stream.send(authorize_request(wallet, "h", USD=1))
        assert (await stream.receive(1))[1].decision == pb.DECISION_APPROVED
        async with open_stores(config) as opened:
            await opened.ledger.revoke_api_key("default", "gateway")

        async def is_refused() -> bool:
            del stream.results[1]
            await stream.send(authorize_request(wallet, "h", USD=1))
            error = (await stream.receive(1))[1]
            return isinstance(error, pb.OperationError) and reason_of(error) == "UNAUTHENTICATED"

        await until(is_refused, timeout_s=5)
        assert await stream.end() is grpc.StatusCode.OK
        await server.assert_conserved(wallet)


@pytest.mark.parametrize(("scopes", "code"), [((), "UNAUTHENTICATED"), ((Scope.READ,), "PERMISSION_DENIED")])
async def test_a_stream_needs_a_key_with_the_scope(shared_config: Config, scopes: Iterable[Scope], code: str) -> None:
    config = with_keys(shared_config)
    key = await create_key(config, "only-read", scopes=scopes) if scopes else ""
    async with run_server(config, assets=False, credential=key) as server:
        failure = await failure_of(Stream(server).call.read())
        assert failure.reason == failure.code.name == code


async def test_each_counts_as_a_call_and_the_stream_as_none(shared_config: Config, server: Server) -> None:
    wallet = await server.wallet(USD=10)
    await server.authorize(wallet, "h", USD=1)
    async with slow_server(shared_config, calls_max=4) as slow:
        streams = [Stream(slow) for _ in range(8)]
        for stream in streams:
            await stream.send(pb.ReleaseRequest(wallet_id=wallet, hold_id="other"))
            await stream.receive(1)
        await streams[0].send(*[slow_commit(wallet, "h")] * 5, first_tag=10)
        results = await streams[0].receive(2)
        assert [reason_of(results[tag]) for tag in results if tag >= 10] == ["OVERLOADED"]
        for stream in streams:
            stream.call.cancel()
    await server.assert_conserved(wallet)


async def test_a_server_that_ends_asks_to_leave_answers_what_is_under_way_and_refuses_what_still_comes(
    server: Server, shared_config: Config
) -> None:
    wallet = await server.wallet(USD=10)
    await server.authorize(wallet, "h", USD=1)
    async with slow_server(shared_config) as ending:
        obeys, stays = Stream(ending), Stream(ending)
        for stream in (obeys, stays):
            await stream.send(slow_commit(wallet, "h"))
            await stream.send(pb.ReleaseRequest(wallet_id=wallet, hold_id="other"), first_tag=2)
            await stream.receive(1)
        ending.stop.set()
        while not obeys.going_away:
            await obeys.read()
        assert await obeys.end() is grpc.StatusCode.OK
        assert obeys.results[1].debited[0].units == 1
        assert (await stays.receive(2))[1].debited[0].units == 1

        async def is_refused() -> bool:
            stays.results.pop(3, None)
            try:
                await stays.send(authorize_request(wallet, "late", USD=1), first_tag=3)
                error = (await stays.receive(3))[3]
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, AssertionError):
                return True  # it is gone
            return isinstance(error, pb.OperationError) and reason_of(error) == "STORE_UNAVAILABLE"

        await until(is_refused)
    await server.assert_conserved(wallet)


async def test_an_old_stream_is_asked_to_leave(shared_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "session_age_s", lambda connection_age_s: connection_age_s / 1_000)
    async with slow_server(shared_config) as server:
        stream = Stream(server)
        while not stream.going_away:
            assert await stream.read()
        assert await stream.end() is grpc.StatusCode.OK


async def test_each_has_a_line_in_the_log_under_its_own_trace(shared_config: Config) -> None:
    with capture_logs() as logs:
        async with run_server(shared_config.model_copy(update={"log_sample_ratio": 1.0}), assets=False) as server:
            stream = Stream(server)
            traceparent = f"00-{'1' * 32}-{'2' * 16}-00"
            await stream.send(commit_request("nobody", "h", USD=1), traceparent=traceparent)
            await stream.receive(1)
            await stream.end()
    told = [(line["method"].rpartition("/")[2], line["code"]) for line in logs if line["event"] == "rpc"]
    assert told[-2:] == [("Commit", "NOT_FOUND"), ("Session", "OK")]
    traced = [line.get("trace_id") for line in logs if line["event"] == "rpc"]
    assert traced[-2:] == ["1" * 32, None]


async def test_a_server_whose_valkey_is_down_asks_to_leave(
    shared_config: Config, postgres_url: str, data_dir: Path
) -> None:
    """Health checks end no open stream: its client would go on to fail where others serve."""
    with ValkeyProcess(data_dir, appendfsync="no") as valkey:
        async with slow_server(shared_config, valkey_url=valkey.url, postgres_url=postgres_url) as lonely:
            stream = Stream(lonely)
            await stream.send(pb.ReleaseRequest(wallet_id="w", hold_id="h"))
            await stream.receive(1)
            valkey.kill()
            while not stream.going_away:
                await stream.read()
            valkey.start()
