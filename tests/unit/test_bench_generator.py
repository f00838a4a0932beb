"""The C load generator against a small server: what it counts, and what it calls a bad answer."""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from bench.load.generator import NUMBER, WALLET, Calls, Generator, Step
from bench.table.messages import ANY_MESSAGE, APPROVED, RIVAL, SERVICE, authorize_step, commit_step
from drawdown.v1 import authorization_service_pb2 as pb
from drawdown.v1 import authorization_service_pb2_grpc, types_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
BATCH = 32


class Counting(authorization_service_pb2_grpc.AuthorizationServiceServicer):
    """Approves everything but the holds of some numbers, and notes what came."""

    def __init__(self, denied: set[int]) -> None:
        self._denied = denied
        self.authorized: list[str] = []
        self.committed: list[str] = []
        self.wallets: set[str] = set()
        self.session_messages = 0
        self.timeouts: set[int] = set()

    def answer(self, operation: pb.Operation) -> pb.OperationResult:
        if operation.HasField("commit"):
            self.committed.append(operation.commit.hold_id)
            return pb.OperationResult(commit=pb.CommitResponse(hold=types_pb2.Hold(hold_id="h")))
        request = operation.authorize
        self.authorized.append(request.hold_id)
        self.wallets.add(request.wallet_id)
        is_denied = int(request.hold_id.removeprefix("hold-")) in self._denied
        if is_denied and len(self.authorized) % 2:
            return pb.OperationResult(error=pb.OperationError(code=14, message="APPROVED"))
        decision = pb.DECISION_DENIED if is_denied else pb.DECISION_APPROVED
        balances = [types_pb2.Balance(asset="USD")] * 40  # more than a frame of HTTP/2 for a Batch
        return pb.OperationResult(authorize=pb.AuthorizeResponse(decision=decision, balances=balances))

    async def Authorize(self, request: pb.AuthorizeRequest, context: object) -> pb.AuthorizeResponse:  # noqa: ARG002, N802
        return self.answer(pb.Operation(authorize=request)).authorize

    async def Commit(self, request: pb.CommitRequest, context: object) -> pb.CommitResponse:  # noqa: ARG002, N802
        return self.answer(pb.Operation(commit=request)).commit

    async def Batch(self, request: pb.BatchRequest, context: object) -> pb.BatchResponse:  # noqa: ARG002, N802
        return pb.BatchResponse(results=[self.answer(each) for each in request.operations])

    async def Session(self, request: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:  # noqa: ARG002, N802
        while (message := await context.read()) is not grpc.aio.EOF:
            self.session_messages += 1
            for each in reversed(message.operations):  # in any order
                self.timeouts.add(each.timeout.seconds)
                result = pb.SessionResult(tag=each.tag, result=self.answer(each.operation))
                await context.write(pb.SessionResponse(results=[result]))


@asynccontextmanager
async def serve(*denied: int) -> AsyncIterator[tuple[int, Counting]]:
    server, servicer = grpc.aio.server(), Counting(set(denied))
    authorization_service_pb2_grpc.add_AuthorizationServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port, servicer
    finally:
        await server.stop(None)


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return Generator(tmp_path_factory.mktemp("generator"))


def holds(first: int, count: int) -> list[str]:
    return [f"hold-{number:0{len(NUMBER)}}" for number in range(first, first + count)]


@pytest.mark.parametrize(("mode", "concurrency"), [("unary", 40), ("session", 70), (f"batch:{BATCH}", 3), ("unary", 1)])
async def test_every_call_has_a_number_of_its_own_and_all_wallets_are_used(
    generator: Generator, mode: str, concurrency: int
) -> None:
    async with serve() as (port, servicer):
        calls = Calls(10 * BATCH, first=1_000, wallets=16, concurrency=concurrency)
        result = await generator.grpc(port, [authorize_step(RIVAL, mode)], calls, mode=mode)
        assert sorted(servicer.authorized) == holds(1_000, 10 * BATCH)
        assert servicer.wallets == {f"wallet-{number:0{len(WALLET)}}" for number in range(16)}
        assert (result.calls, result.failed) == (10 * BATCH, 0)
        assert result.messages == (10 if mode.startswith("batch") else 10 * BATCH)
        assert result.bytes_out > 10 * BATCH * len(f"wallet-{WALLET}hold-{NUMBER}")
        assert 0 < result.p50_us <= result.p99_us <= result.max_us


@pytest.mark.parametrize("mode", ["unary", "session"])
async def test_steps_of_a_call_come_one_after_the_other_for_the_same_hold(generator: Generator, mode: str) -> None:
    async with serve() as (port, servicer):
        steps = [authorize_step(RIVAL, mode), commit_step(RIVAL, mode)]
        result = await generator.grpc(port, steps, Calls(50, first=7, wallets=5, concurrency=8), mode=mode)
        assert sorted(servicer.authorized) == sorted(servicer.committed) == holds(7, 50)
        assert result.calls == 50


async def test_a_session_sends_together_what_begins_together_with_a_timeout(generator: Generator) -> None:
    async with serve() as (port, servicer):
        calls = Calls(200, first=0, wallets=5, concurrency=20)
        await generator.grpc(port, [authorize_step(RIVAL, "session")], calls, mode="session")
        assert servicer.session_messages < 200
        assert servicer.timeouts == {30}


@pytest.mark.parametrize("mode", ["unary", "session", f"batch:{BATCH}"])
async def test_denials_and_errors_are_bad_answers(generator: Generator, mode: str) -> None:
    async with serve(3, 4) as (port, _):
        with pytest.raises(RuntimeError, match=r"2 of 64 calls were not answered"):
            await generator.grpc(
                port, [authorize_step(RIVAL, mode)], Calls(64, first=0, wallets=5, concurrency=2), mode=mode
            )


async def test_a_method_that_fails_is_a_bad_answer(generator: Generator) -> None:
    async with serve() as (port, _):
        step = Step(f"{SERVICE}/Nothing", b"\x0a\x00", ANY_MESSAGE)
        with pytest.raises(RuntimeError, match=r"4 of 4 calls"):
            await generator.grpc(port, [step], Calls(4, first=0, wallets=1, concurrency=2))


async def test_a_rate_is_not_exceeded(generator: Generator) -> None:
    async with serve() as (port, _):
        calls = Calls(200, first=0, wallets=1, concurrency=32, rate=1_000)
        result = await generator.grpc(port, [authorize_step(RIVAL, "session")], calls, mode="session")
        assert result.rate <= 1_000


def test_the_answers_that_count_are_those_of_the_protocol() -> None:
    approved = pb.AuthorizeResponse(decision=pb.DECISION_APPROVED).SerializeToString()
    denied = pb.AuthorizeResponse(decision=pb.DECISION_DENIED).SerializeToString()
    assert approved.startswith(APPROVED)
    assert not denied.startswith(APPROVED)
