"""The data plane's calls over a few long-lived Sessions instead of one RPC each. For asyncio.

A call behaves as its RPC does: its deadline, its retries and its exceptions are those of ``_channel.py`` and of gRPC.
What is called at the same time goes out together, and what was answered comes in together.

No call waits for a Session. While none is taken (the first one is being opened, the server is older than Session, a
proxy on the way does not let streams through, the server was lost), calls are RPCs of their own. All attempts of a call
count together, however each travels: gRPC repeats none of them.

A Session that ends takes no answer with it that did not come: the outcome of what was under way is unknown, so it is
sent again with the same ids over another Session, as gRPC does with a call that is lost. A server that is about to end
says so in each Session; it is then left, and what it refused (it was not begun) goes to another server. A Session from
which nothing comes any more (the server hangs, the line is dead) is left as well; what is under way there keeps its
deadline.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from typing import TYPE_CHECKING, Final, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2

from drawdown._channel import ATTEMPTS_MAX, CLOSED_IN_FLIGHT, SESSION_PATH
from drawdown._exceptions import DeadlineExceededError, DrawdownError, InternalError, UnavailableError
from drawdown._retries import RETRYABLE, RetryBudget, pause_s
from drawdown._status import from_status, to_exception
from drawdown.v1 import authorization_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable

    from drawdown._channel import Settings
    from drawdown._connections import Connections
    from drawdown._rpcs import Operation, Rpc

    Call = grpc.aio.StreamStreamCall[bytes, bytes]

Request = TypeVar("Request", bound=Message)
Result = TypeVar("Result")

EOF: Final = grpc.aio.EOF  # type: ignore[attr-defined]  # of its stubs
LOST_IN_A_WRITE: Final = "Internal error from Core"
"""What grpc.aio makes of a stream that ended while it was written to, instead of the status."""
OPERATIONS_MAX: Final = 256
"""In one message: the server has no more under way."""
BYTES_MAX: Final = 512 * 1024
"""In one message: half of what the server takes. An operation that is larger is a call by itself."""
BUSY_AT: Final = 32
"""Calls in flight on the one Session of each connection when connections get more of them. Fewer cost both sides less,
since more calls share a message; more reach more servers, and past this there is little left to share."""
SESSIONS_PER_CONNECTION: Final = 4
"""At most. Each goes to the next of the target's addresses."""
REOPEN_S: Final = 1.0
"""After a Session that was not taken: an RPC tells the caller why, and there is no hurry."""
UNKNOWN_S: Final = 60.0
"""After one that the server did not know, or that nobody took or refused in time: it may be replaced by a newer one."""
NOBODY_TAKES_STREAMS: Final = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.DEADLINE_EXCEEDED)
SILENT_S: Final = 3.0
"""A Session is left when calls on it were given up, and had waited for so long together without anything coming; and
when it was not taken for so long. A server answers within milliseconds, and if its store hangs within 2.5 s by default;
to leave too early costs a stream and no call. gRPC itself takes 5 to 15 s to notice (``_channel.py``)."""


class Session:
    """One stream to one server.

    Args:
        call: The stream, just opened.
        trace: ``traceparent`` and ``tracestate`` of every operation; empty if there are none.
        on_refused: Hears of the end of a stream that was never taken.
    """

    def __init__(self, call: Call, trace: tuple[str, str], on_refused: Callable[[DrawdownError], None]) -> None:
        self._call = call
        self._on_refused = on_refused
        self._traceparent, self._tracestate = trace
        self._tags = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[pb.OperationResult]] = {}
        self._unsent: dict[int, tuple[float, pb.SessionOperation]] = {}
        """By tag, with their deadlines by the event loop's clock."""
        self._cancelled: list[int] = []
        self._writer: asyncio.Task[None] | None = None
        self._heard_s = -math.inf
        """When anything came last."""
        self._given_up_s = -math.inf
        """When a call was given up last that had heard nothing."""
        self._silent_s = 0.0
        """For how long such calls had waited together, since anything came."""
        self.is_taken = False
        """The server has begun to serve the stream."""
        self.is_leaving = False
        """The server is about to end, or the stream has ended: nothing new goes here."""
        self._reader = asyncio.create_task(self._read())

    @property
    def in_flight(self) -> int:
        """Calls that wait for their answer."""
        return len(self._waiting)

    @property
    def has_ended(self) -> bool:
        """Whether nobody reads it any more."""
        return self._reader.done()

    async def perform(self, operation: pb.Operation, timeout_s: float) -> pb.OperationResult:
        """The result of an operation that did not fail.

        Args:
            operation: It.
            timeout_s: For how long to wait.

        Raises:
            DrawdownError: It failed, that was too short, or the Session ended first.
        """
        tag = next(self._tags)
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[pb.OperationResult] = loop.create_future()
        self._waiting[tag] = waiting
        request = pb.SessionOperation(
            tag=tag, operation=operation, traceparent=self._traceparent, tracestate=self._tracestate
        )
        made_s = loop.time()
        self._unsent[tag] = (made_s + timeout_s, request)
        self._write_soon()
        timer = loop.call_at(made_s + timeout_s, self._time_out, tag, made_s)
        try:
            result = await waiting
        except asyncio.CancelledError:
            self._give_up(tag, made_s)
            raise
        finally:
            timer.cancel()
        if result.HasField("error"):
            raise from_status(status_pb2.Status.FromString(result.error.SerializeToString()))
        return result

    def leave(self) -> None:
        """Send nothing more: the Session ends when everything is answered."""
        self.is_leaving = True
        self._write_soon()

    async def close(self) -> None:
        """End it now; calls in flight fail."""
        self.is_leaving = True
        self._fail(lambda: RuntimeError(CLOSED_IN_FLIGHT))
        self._call.cancel()
        tasks = [task for task in (self._reader, self._writer) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _time_out(self, tag: int, made_s: float) -> None:
        waiting = self._waiting.get(tag)
        if waiting is not None and not waiting.done():
            waiting.set_exception(DeadlineExceededError("Deadline Exceeded", code=grpc.StatusCode.DEADLINE_EXCEEDED))
            self._give_up(tag, made_s)

    def _give_up(self, tag: int, made_s: float) -> None:
        """Nobody waits for this operation any more: if it is not begun, it need not be."""
        if self._waiting.pop(tag, None) is None:
            return
        if self._unsent.pop(tag, None) is None:
            self._cancelled.append(tag)
            self._write_soon()
        if self._heard_s < made_s:
            now_s = asyncio.get_running_loop().time()
            self._silent_s += now_s - max(made_s, self._given_up_s)
            self._given_up_s = now_s
            if self._silent_s >= SILENT_S:
                self.leave()

    def _write_soon(self) -> None:
        if self._writer is None or self._writer.done():  # done: it was cancelled before it began
            self._writer = asyncio.create_task(self._write())

    async def _write(self) -> None:
        try:
            while self._unsent or self._cancelled:
                await self._call.write(self._next_message())
            if self.is_leaving:
                await self._call.done_writing()
        except (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError):
            pass  # the stream is over: whoever reads it says so
        finally:
            self._writer = None

    def _next_message(self) -> bytes:
        first = list(itertools.islice(self._unsent.values(), OPERATIONS_MAX))
        if len(first) > 1:
            sizes = itertools.accumulate(operation.ByteSize() for _, operation in first)
            del first[max(1, sum(size <= BYTES_MAX for size in sizes)) :]
        now_s = asyncio.get_running_loop().time()
        for deadline_s, operation in first:  # from here on the server counts; it may have waited before
            del self._unsent[operation.tag]
            operation.timeout.FromNanoseconds(int(max(deadline_s - now_s, 0.0) * 1e9))
        request = pb.SessionRequest(operations=[operation for _, operation in first], cancelled_tags=self._cancelled)
        self._cancelled.clear()
        return request.SerializeToString()

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(SILENT_S):
                await self._call.initial_metadata()
            self.is_taken = not self._call.done()
            while (data := await self._call.read()) is not EOF:
                self._heard_s, self._silent_s = asyncio.get_running_loop().time(), 0.0
                self._take(pb.SessionResponse.FromString(cast("bytes", data)))
            self._end(lambda: UnavailableError("the server left", code=grpc.StatusCode.UNAVAILABLE))
        except grpc.RpcError as error:
            status = error  # which its clause would forget
            self._end(lambda: _lost(status))
        except TimeoutError:
            self._call.cancel()
            self._end(lambda: DeadlineExceededError("nobody takes streams", code=grpc.StatusCode.DEADLINE_EXCEEDED))
        except DecodeError:
            self._call.cancel()
            self._end(lambda: InternalError("a session cannot be read", code=grpc.StatusCode.INTERNAL))
        except asyncio.CancelledError:  # with all tasks of the loop: from here on nobody reads
            self._call.cancel()
            self._end(lambda: UnavailableError("the stream was given up", code=grpc.StatusCode.UNAVAILABLE))
            raise

    def _end(self, error: Callable[[], DrawdownError]) -> None:
        self.is_leaving = True
        ended = error()
        # That a server does not know streams may be known a moment after its first answer.
        if not self.is_taken or ended.code is grpc.StatusCode.UNIMPLEMENTED:
            self._on_refused(ended)
        self._fail(lambda: _retryable(error()))

    def _take(self, response: pb.SessionResponse) -> None:
        for result in response.results:
            waiting = self._waiting.pop(result.tag, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(result.result)
        if response.going_away:
            self.leave()

    def _fail(self, error: Callable[[], Exception]) -> None:
        """Each call with an exception of its own."""
        waiting, self._waiting = self._waiting, {}
        self._unsent.clear()
        for future in waiting.values():
            if not future.done():
                future.set_exception(error())


def _lost(status: grpc.RpcError) -> DrawdownError:
    if status.details() == LOST_IN_A_WRITE:
        return UnavailableError("the connection was lost", code=grpc.StatusCode.UNAVAILABLE)
    return to_exception(status)


def _retryable(error: DrawdownError) -> DrawdownError:
    """What became of a call on a stream that ended so: a proxy's limits for streams are no answer to the call."""
    if error.code in RETRYABLE:
        return error
    return UnavailableError(error.message, code=grpc.StatusCode.UNAVAILABLE)


class Sessions:
    """Sessions to a target, opened as they are needed.

    Args:
        settings: Of the client.
        connections: Of the client, which closes them.
    """

    def __init__(self, settings: Settings, connections: Connections) -> None:
        self._settings = settings
        self._connections = connections
        metadata = dict(settings.metadata)
        self._trace = str(metadata.get("traceparent", "")), str(metadata.get("tracestate", ""))
        self._methods = [channel.stream_stream(SESSION_PATH, None, None) for channel in connections.channels]
        self._sessions: list[Session] = []
        self._left: set[Session] = set()
        """Left and not ended yet."""
        self._open_after_s = 0.0
        """By the event loop's clock."""
        self._retries = RetryBudget()
        self._is_closed = False

    async def perform(
        self, rpc: Rpc[Request, Result], operation: Operation[Request, Result], request: Request, timeout_s: float
    ) -> Result:
        """What an RPC answers, over a Session or by itself.

        Args:
            rpc: It.
            operation: The same for a Session.
            request: Its request.
            timeout_s: Deadline of all attempts together.

        Raises:
            DrawdownError: As the RPC raises it.
            RuntimeError: The client was closed meanwhile.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        message = operation.write(request)
        is_carried = message.ByteSize() <= BYTES_MAX  # a stream would end with it: it goes, and fails, by itself
        for attempt in itertools.count(1):
            if self._is_closed:
                raise RuntimeError(CLOSED_IN_FLIGHT)
            session = self._session() if is_carried else None
            left_s = max(deadline_s - loop.time(), 0.0)
            try:
                if session is None:
                    result = await self._connections.call(rpc, request, left_s)
                else:
                    result = operation.read(await session.perform(message, left_s))
            except DrawdownError as error:
                if error.code not in RETRYABLE or not self._retries.may_retry() or attempt >= ATTEMPTS_MAX:
                    raise
                wait_s = pause_s(error, attempt)
                if session is not None and session.is_leaving and attempt == 1 and self._has_another():
                    wait_s = 0.0
                if wait_s >= deadline_s - loop.time():
                    raise  # which says more than that the time was too short
            else:
                self._retries.succeeded()
                return result
            await asyncio.sleep(wait_s)
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """End all of them; calls in flight fail."""
        self._is_closed = True
        for session in (*self._sessions, *self._left):
            await session.close()

    def _has_another(self) -> bool:
        return any(session.is_taken and not session.is_leaving for session in self._sessions)

    def _session(self) -> Session | None:
        """The one for the next call; None while none is taken."""
        connections = len(self._methods)
        best = self._idlest(connections)
        if best is None or best.in_flight >= BUSY_AT:
            best = self._idlest(connections * SESSIONS_PER_CONNECTION)
        return best

    def _idlest(self, most: int) -> Session | None:
        """Of the first so many the one with the fewest calls in flight; another is opened when each has some."""
        best: Session | None = None
        free, is_opening = len(self._sessions), False
        for number, session in enumerate(self._sessions[:most]):
            if session.is_leaving:
                free = number
            elif not session.is_taken:
                is_opening = True
            elif best is None or session.in_flight < best.in_flight:
                best = session
        if (best is None or best.in_flight) and free < most and not is_opening:
            self._open(free)
        return best

    def _open(self, number: int) -> None:
        if asyncio.get_running_loop().time() < self._open_after_s:
            return
        call = self._methods[number % len(self._methods)](None, metadata=self._settings.metadata)
        opened = Session(call, self._trace, self._refused)
        if number == len(self._sessions):
            self._sessions.append(opened)
        else:
            self._left = {session for session in (*self._left, self._sessions[number]) if not session.has_ended}
            self._sessions[number] = opened

    def _refused(self, error: DrawdownError) -> None:
        pause_s = UNKNOWN_S if error.code in NOBODY_TAKES_STREAMS else REOPEN_S
        self._open_after_s = asyncio.get_running_loop().time() + pause_s
