"""Both clients on bad days: every status as its exception, retries, deadlines."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

import grpc
import pytest

import drawdown
from drawdown import _status
from drawdown.v1 import wallet_service_pb2
from drawdown_server.rpc.transport import STREAMS_MAX
from fake_drawdown import Caller, Failure, FakeDrawdown, approved
from transports import transport  # noqa: F401 - every test over both transports

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def fake() -> Iterator[FakeDrawdown]:
    with FakeDrawdown() as server:
        yield server


@pytest.fixture(params=["async", "sync"])
def call(request: pytest.FixtureRequest, fake: FakeDrawdown) -> Caller:
    return Caller(request.param, fake.target)


# --- errors ---

ERRORS = [
    (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", drawdown.InvalidRequestError),
    (grpc.StatusCode.NOT_FOUND, "WALLET_NOT_FOUND", drawdown.NotFoundError),
    (grpc.StatusCode.ALREADY_EXISTS, "ID_REUSED", drawdown.AlreadyExistsError),
    (grpc.StatusCode.FAILED_PRECONDITION, "HOLD_RELEASED", drawdown.HoldReleasedError),
    (grpc.StatusCode.FAILED_PRECONDITION, "HOLD_COMMITTED", drawdown.HoldCommittedError),
    (grpc.StatusCode.FAILED_PRECONDITION, "EXCEEDS_HOLD", drawdown.ExceedsHoldError),
    (grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_FUNDS", drawdown.InsufficientFundsError),
    (grpc.StatusCode.FAILED_PRECONDITION, "WALLET_CLOSED", drawdown.PreconditionError),
    (grpc.StatusCode.FAILED_PRECONDITION, "FROM_THE_FUTURE", drawdown.PreconditionError),
    (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", drawdown.DeadlineExceededError),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "", drawdown.RateLimitedError),
    (grpc.StatusCode.UNAUTHENTICATED, "", drawdown.UnauthenticatedError),
    (grpc.StatusCode.PERMISSION_DENIED, "", drawdown.PermissionDeniedError),
    (grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED", drawdown.UnimplementedError),
    (grpc.StatusCode.INTERNAL, "INTERNAL", drawdown.InternalError),
    (grpc.StatusCode.UNKNOWN, "", drawdown.InternalError),
    (grpc.StatusCode.ABORTED, "", drawdown.InternalError),
    (grpc.StatusCode.DATA_LOSS, "", drawdown.InternalError),
    (grpc.StatusCode.CANCELLED, "", drawdown.InternalError),
]


@pytest.mark.parametrize(("code", "reason", "kind"), ERRORS, ids=lambda value: str(getattr(value, "name", value)))
@pytest.mark.parametrize("bare", [False, True], ids=["with details", "bare"])
async def test_every_status_is_its_exception(
    fake: FakeDrawdown, call: Caller, code: grpc.StatusCode, reason: str, kind: type, bare: bool
) -> None:
    if bare and issubclass(kind, drawdown.PreconditionError):
        kind = drawdown.PreconditionError  # only the reason tells them apart
    fake.answer("GetHold", Failure(code, "it went wrong", reason, {"hold_id": "h"} if reason else {}, bare=bare))
    with pytest.raises(drawdown.DrawdownError) as caught:
        await call("get_hold", wallet_id="demo", hold_id="h")
    error = caught.value
    assert type(error) is kind
    assert error.code is code
    assert error.message == str(error) == "it went wrong"
    assert error.reason == ("" if bare else reason)
    assert error.metadata == ({} if bare or not reason else {"hold_id": "h"})


async def test_all_violations_arrive(fake: FakeDrawdown, call: Caller) -> None:
    violations = (("wallet_id", "must not be empty"), ("ttl", "must be at most 24 h"))
    fake.answer("Authorize", Failure(grpc.StatusCode.INVALID_ARGUMENT, "bad", "INVALID_FIELD", violations=violations))
    with pytest.raises(drawdown.InvalidRequestError) as caught:
        await call("authorize", wallet_id="", amounts={"USD": 1})
    assert tuple(caught.value.violations) == violations
    assert caught.value.violations[1].description == "must be at most 24 h"


async def test_errors_say_what_to_act_on(fake: FakeDrawdown, call: Caller) -> None:
    fake.answer(
        "Commit",
        Failure(
            grpc.StatusCode.FAILED_PRECONDITION,
            reason="EXCEEDS_HOLD",
            metadata={"asset": "USD", "units": "120", "held_units": "100"},
        ),
        Failure(grpc.StatusCode.FAILED_PRECONDITION, reason="EXCEEDS_HOLD"),
    )
    with pytest.raises(drawdown.ExceedsHoldError) as caught:
        await call("commit", wallet_id="demo", hold_id="h", amounts={"USD": 120})
    assert (caught.value.asset, caught.value.units, caught.value.held_units) == ("USD", 120, 100)
    with pytest.raises(drawdown.ExceedsHoldError) as caught:  # the metadata is for people to add, not to rely on
        await call("commit", wallet_id="demo", hold_id="h", amounts={"USD": 120})
    assert (caught.value.asset, caught.value.units) == ("", 0)
    fake.answer("Authorize", Failure(grpc.StatusCode.ALREADY_EXISTS, reason="ID_REUSED", metadata={"field": "ttl"}))
    with pytest.raises(drawdown.AlreadyExistsError) as reused:
        await call("authorize", wallet_id="demo", hold_id="h", amounts={"USD": 120})
    assert reused.value.field == "ttl"


def test_details_that_cannot_be_read_do_not_hide_the_error() -> None:
    class Broken(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.NOT_FOUND

        def details(self) -> str:
            return ""

        def trailing_metadata(self) -> Any:  # noqa: ANN401 - grpc-stubs knows only a class of its own
            return (("grpc-status-details-bin", b"\xff\xff\xff"),)

    error = _status.to_exception(Broken())
    assert type(error) is drawdown.NotFoundError
    assert error.message == "NOT_FOUND"


# --- retries and deadlines ---

UNAVAILABLE = Failure(grpc.StatusCode.UNAVAILABLE, "draining", "STORE_UNAVAILABLE", {"store": "valkey"})


async def test_unavailable_is_tried_three_times_with_the_same_ids(fake: FakeDrawdown, call: Caller) -> None:
    fake.answer("Authorize", UNAVAILABLE, UNAVAILABLE, approved({"USD": 1}))
    assert await call("authorize", wallet_id="demo", amounts={"USD": 1}, timeout_s=20)
    ids = {arrived.request.hold_id for arrived in fake.calls("Authorize")}
    assert len(fake.calls("Authorize")) == 3
    assert len(ids) == 1


async def test_a_call_that_a_server_cancelled_while_it_ended_is_sent_again(fake: FakeDrawdown, call: Caller) -> None:
    fake.answer("Authorize", Failure(grpc.StatusCode.CANCELLED), approved({"USD": 1}))
    assert await call("authorize", wallet_id="demo", amounts={"USD": 1}, timeout_s=20)
    assert len({arrived.request.hold_id for arrived in fake.calls("Authorize")}) == 1
    assert len(fake.calls("Authorize")) == 2


async def test_every_call_of_a_full_connection_that_breaks_is_sent_again(fake: FakeDrawdown) -> None:
    """As many failures at once as a server takes calls on one connection must not use up the right to retry."""
    seen: set[str] = set()

    def first_fails(request: Any) -> Any:  # noqa: ANN401 - of Authorize, and the answer or a failure
        if request.hold_id in seen:
            return approved({"USD": 1})
        seen.add(request.hold_id)
        return UNAVAILABLE

    fake.answer("Authorize", first_fails)
    async with drawdown.AsyncClient(fake.target, timeout_s=20) as client:
        calls = [client.authorize(wallet_id="demo", amounts={"USD": 1}) for _ in range(STREAMS_MAX)]
        assert len(await asyncio.gather(*calls)) == STREAMS_MAX
    assert len(fake.calls("Authorize")) == 2 * STREAMS_MAX


async def test_unavailable_for_good_is_an_error_that_says_so(fake: FakeDrawdown, call: Caller) -> None:
    fake.answer("Authorize", UNAVAILABLE)
    with pytest.raises(drawdown.UnavailableError) as caught:
        await call("authorize", wallet_id="demo", amounts={"USD": 1}, timeout_s=20)
    assert len(fake.calls("Authorize")) == 3
    assert caught.value.reason == drawdown.ErrorReason.STORE_UNAVAILABLE
    assert caught.value.metadata == {"store": "valkey"}
    assert caught.value.retry_delay_s is None


async def test_the_delay_that_the_server_asks_for_is_told(fake: FakeDrawdown, call: Caller) -> None:
    fake.answer("GetWallet", Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_delay_ms=1_500))
    with pytest.raises(drawdown.RateLimitedError) as caught:
        await call("get_wallet", wallet_id="demo")
    assert caught.value.retry_delay_s == 1.5
    assert len(fake.calls("GetWallet")) == 1


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED])
async def test_nothing_else_is_tried_again(fake: FakeDrawdown, call: Caller, code: grpc.StatusCode) -> None:
    fake.answer("Authorize", Failure(code))
    with pytest.raises(drawdown.DrawdownError):
        await call("authorize", wallet_id="demo", amounts={"USD": 1})
    assert len(fake.calls("Authorize")) == 1


async def test_a_dead_server_is_unavailable(call: Caller) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: nobody answers there
        call.target = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(drawdown.UnavailableError) as caught:
            await call("get_wallet", wallet_id="demo", timeout_s=20)
    assert caught.value.reason == ""


async def test_the_deadline_of_the_call_ends_it(fake: FakeDrawdown, call: Caller) -> None:
    stuck = threading.Event()
    fake.answer("GetWallet", lambda _: wallet_service_pb2.GetWalletResponse() if stuck.wait(20) else UNAVAILABLE)
    try:
        with pytest.raises(drawdown.DeadlineExceededError):
            await call("get_wallet", wallet_id="demo", timeout_s=0.05)
    finally:
        stuck.set()


@pytest.mark.parametrize(
    ("timeout_s", "error"),
    [
        (None, TypeError),
        (True, TypeError),
        (0, ValueError),
        (-1, ValueError),
        (1e400, ValueError),
        (sys.maxsize, ValueError),
    ],
)
async def test_every_call_has_a_deadline(call: Caller, timeout_s: Any, error: type[Exception]) -> None:  # noqa: ANN401
    with pytest.raises(error, match="every call has a deadline"):
        await call("get_wallet", wallet_id="demo", timeout_s=timeout_s)
    with pytest.raises(error, match="every call has a deadline"):
        drawdown.AsyncClient(timeout_s=timeout_s)
