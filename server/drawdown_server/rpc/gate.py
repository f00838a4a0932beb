"""The gate of every call: who is calling, for how long, how every failure is told, and what is said about the call.

What is said is in ``calls.py``.

Around each call, and around each operation that another call carries (``operations.py``), it sets the caller, and turns
everything but a ``DrawdownError`` into INTERNAL with the whole story in the log and nothing of it in the answer. A
``DrawdownError`` becomes a gRPC status with ``google.rpc`` details.

gRPC cancels a handler when the caller's deadline is over or the caller has gone. A call of the data plane has its
effect in one script, whatever else it asks before; a script that was sent runs, and ``holds/abandoned.py`` tells its
outcome. So its handler may be cancelled anywhere. What administrators change is recorded in Postgres and then applied
to Valkey: such a handler goes on to its end as a task of its own, and its outcome is counted and logged. A task for
every call would cost 20 us, a tenth of an Authorize.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, cast

import grpc
import structlog

from drawdown_server import deadline
from drawdown_server.errors import (
    CODES,
    DrawdownError,
    ErrorReason,
    StoreUnavailableError,
)
from drawdown_server.identity.admin_call import set_admin_call
from drawdown_server.identity.caller import set_caller
from drawdown_server.identity.scopes import check_method, check_wallet
from drawdown_server.rpc.admin_calls import RECORDED, admin_call, denied_call
from drawdown_server.rpc.statuses import Ending
from drawdown_server.rpc.transport import CARRIER_BYTES_MAX, OPERATION_BYTES_MAX
from drawdown_server.rpc.wire import parsed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence

    from google.protobuf.message import Message

    from drawdown_server.identity.credentials import Credentials
    from drawdown_server.rpc.admission import Admission
    from drawdown_server.rpc.calls import CallRecorder
    from drawdown_server.rpc.denials import Denials

    Metadata = Iterable[tuple[str, str | bytes]] | None

log = structlog.get_logger(__name__)

DATA_PLANE: Final = ".AuthorizationService"
READING: Final = ("Get", "List")
CARRIERS: Final = frozenset(f"drawdown.v1.AuthorizationService/{name}" for name in ("Batch", "Session"))
"""Methods that carry operations, each of which counts as a call: they themselves count as none."""

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

if TYPE_CHECKING:
    Handle = Callable[[_Request, "CallContext"], Coroutine[object, object, _Response]]
    """Does a call; may be any method of a service of ours."""
    Stream = Callable[[object, "CallContext"], Coroutine[object, object, None]]
    """Does a stream."""


class CallContext(Protocol):
    """What we need of grpc.aio's context, and its stubs lack."""

    async def abort_with_status(self, status: grpc.Status) -> None:
        """End the call with this status; always raises."""

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None = it waits for ever."""

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """What the transport knows of the caller."""

    def invocation_metadata(self) -> Metadata:
        """What the caller sent beside the request."""


class LongStream(Protocol):
    """A stream that lives until somebody leaves."""

    def go_away(self) -> None:
        """Ask its client to leave."""


class Gate:
    """Identity in, errors out, every call told.

    Args:
        credentials: Say who calls.
        recorder: Hears of every call.
        admission: Which calls get in when there are too many.
        denials: Hears of calls of administrators that a credential was not enough for.
    """

    def __init__(
        self, credentials: Credentials, recorder: CallRecorder, admission: Admission, denials: Denials
    ) -> None:
        self._credentials = credentials
        self._denials = denials
        self._recorder = recorder
        self._admission = admission
        self._in_flight = 0
        self._is_refusing = False
        self.arrived = 0
        """Calls that have come so far; those that go on without their caller count again."""
        self._idle = asyncio.Event()
        self._idle.set()
        self.streams: set[LongStream] = set()
        """Those that carry operations."""
        self.is_ending = False
        """Whether streams that come now are to leave again soon."""
        self._going_on: set[asyncio.Task[object]] = set()
        self.abandoned: Counter[tuple[str, str]] = Counter()
        """Calls of administrators that went on without their caller, by method and status."""

    def send_away(self) -> None:
        """Ask the clients of all streams to leave."""
        for stream in self.streams:
            stream.go_away()

    def send_away_for_good(self) -> None:
        """The same, and those that come from here on too: this server is ending."""
        self.is_ending = True
        self.send_away()

    def refuse_new(self) -> None:
        """Answer every new call with UNAVAILABLE: this server is ending, another one will take it."""
        self._is_refusing = True

    def _check_not_draining(self) -> None:
        if self._is_refusing:
            raise StoreUnavailableError("server", "this server is draining")

    def unknown_method(self) -> None:
        """A call of a method that nobody has: gRPC answers it by itself."""
        self._recorder.unknown_method()

    @property
    def in_flight(self) -> int:
        """Calls that have arrived and are not answered yet."""
        return self._in_flight

    def _enter(self) -> None:
        self.arrived += 1
        self._in_flight += 1
        self._idle.clear()

    def _leave(self) -> None:
        self._in_flight -= 1
        if self._in_flight == 0:
            self._idle.set()

    async def idle(self) -> None:
        """Return when no call is in flight, and none that was abandoned goes on."""
        await self._idle.wait()

    async def _to_its_end(self, method: str, handling: Coroutine[object, object, _Response]) -> _Response:
        """Await a handler that goes on when its caller is gone."""
        deadline.forget()  # it was checked; from here on the work is done whoever waits
        task = asyncio.create_task(handling)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._enter()
            self._going_on.add(task)
            task.add_done_callback(lambda done: self._end_abandoned(method, done))
            raise

    def _end_abandoned(self, method: str, task: asyncio.Task[_Response]) -> None:
        self._going_on.discard(task)
        self._leave()
        outcome, error = "OK", None if task.cancelled() else task.exception()
        if error is not None:
            outcome = CODES[error.reason if isinstance(error, DrawdownError) else ErrorReason.INTERNAL].name
        self.abandoned[method, outcome] += 1
        log.info("rpc.abandoned", method=method, outcome=outcome, error=None if error is None else repr(error))

    def wrap(
        self, method: str, handler: grpc.RpcMethodHandler[_Request, _Response]
    ) -> grpc.RpcMethodHandler[_Request, _Response]:
        """The handler of a method with everything that happens around its calls.

        Done once per method: gRPC's interceptors make a handler per call, which costs a tenth of one.

        Args:
            method: Full name without the leading slash.
            handler: Of the generated code.
        """
        if handler.stream_stream is not None:
            return self._wrap_stream(method, cast("Stream", handler.stream_stream))
        # The stubs describe the blocking server here; ours is grpc.aio's.
        inner = cast("Handle[_Request, _Response]", handler.unary_unary)
        deserialize = cast("Callable[[bytes], _Request]", handler.request_deserializer)
        is_carrier = method in CARRIERS
        bytes_max = CARRIER_BYTES_MAX if is_carrier else OPERATION_BYTES_MAX

        def to_its_end(request: _Request, context: CallContext) -> Coroutine[object, object, _Response]:
            return self._to_its_end(method, inner(request, context))

        handle = to_its_end if is_administration(method) else inner

        async def call(raw: bytes, context: CallContext) -> _Response:
            try:
                return await self.run(
                    method,
                    context.invocation_metadata(),
                    context,
                    context.time_remaining(),
                    lambda: parsed(raw, deserialize, bytes_max),
                    handle,
                )
            except DrawdownError as error:
                failure = error
            await context.abort_with_status(Ending(failure))
            raise AssertionError("abort_with_status always raises")

        # Bytes arrive as they are: gRPC's own answer to those that are no message tells the parser's text. A carrier's
        # answer is made of those of its operations, and leaves as bytes.
        return grpc.unary_unary_rpc_method_handler(
            cast("Callable[[_Request, grpc.ServicerContext], _Response]", call),
            request_deserializer=None,
            response_serializer=None if is_carrier else handler.response_serializer,
        )

    def _wrap_stream(self, method: str, inner: Stream) -> grpc.RpcMethodHandler[_Request, _Response]:
        """The handler of a stream: all that happens around a call, around its whole life."""

        async def call(requests: object, context: CallContext) -> None:
            try:
                await self.run(
                    method,
                    context.invocation_metadata(),
                    context,
                    context.time_remaining(),
                    lambda: requests,
                    inner,
                )
            except DrawdownError as error:
                failure = error
            else:
                return
            await context.abort_with_status(Ending(failure))

        return grpc.stream_stream_rpc_method_handler(
            cast("Callable[[Iterator[_Request], grpc.ServicerContext], Iterator[_Response]]", call),
            request_deserializer=None,
            response_serializer=None,
        )

    async def run(
        self,
        method: str,
        metadata: Metadata,
        context: CallContext,
        time_left_s: float | None,
        parse: Callable[[], _Request],
        handle: Handle[_Request, _Response],
    ) -> _Response:
        """All that happens around one call, or one operation that a call carries.

        Args:
            method: Full name without the leading slash.
            metadata: With the credential and the trace.
            context: Of the call that brought it.
            time_left_s: For how long its caller waits; None = for ever.
            parse: Its request.
            handle: Does it.

        Raises:
            DrawdownError: How it failed, whatever went wrong.
        """
        counts = method not in CARRIERS
        told = self._recorder.begin(method, metadata)
        if counts:
            self._enter()
        try:
            self._check_not_draining()
            if counts:
                self._admission.check_load(method, self._in_flight)
            deadline.begin(time_left_s)
            told.caller = caller = await self._credentials.caller(metadata, context)
            if counts:
                self._admission.check_rate(method, caller.tenant_id, caller.principal)
            check_method(caller, method)
            set_caller(caller)
            told.request = request = parse()
            check_wallet(caller, getattr(request, "wallet_id", ""))
            if method in RECORDED:
                set_admin_call(admin_call(method, caller, cast("Message", request), told.trace_id))
            return told.answered(await handle(request, context))
        except DrawdownError as error:
            failure = told.failed(error)
            if error.reason is ErrorReason.PERMISSION_DENIED and method in RECORDED and told.caller is not None:
                asked = cast("Message | None", _parsed_if_it_can_be(parse))
                await self._denials.note(denied_call(method, told.caller, asked, told.trace_id))
        except NotImplementedError:
            failure = told.failed(DrawdownError(ErrorReason.NOT_IMPLEMENTED, f"/{method} is not implemented"))
        except Exception:
            log.exception("rpc.failed", method=method)
            failure = told.failed(DrawdownError(ErrorReason.INTERNAL, "internal error"))
        finally:
            if counts:
                self._leave()
            told.end()
        raise failure


def is_administration(method: str) -> bool:
    """Whether a method changes something in Postgres and then in Valkey: all that do not read, but the data plane's."""
    service, _, name = method.rpartition("/")
    return not service.endswith(DATA_PLANE) and not name.startswith(READING)


def _parsed_if_it_can_be(parse: Callable[[], _Request]) -> _Request | None:
    try:
        return parse()
    except DrawdownError:
        return None
