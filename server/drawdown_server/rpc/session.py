"""Session: operations over one stream, answered as they are done.

Each operation is a task. The one that is done first writes the results of all that are done by then, and of those that
get done while it writes: under load one message carries many, and at a concurrency of 1 nothing is handed over.

The stream is not read while ``IN_FLIGHT_MAX`` operations are not answered, so what waits for a client that does not
read is bounded, and gRPC's flow control holds the client back.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final, Protocol, cast

import grpc

from drawdown.v1 import authorization_service_pb2 as pb
from drawdown_server.errors import InvalidRequestError, Violation
from drawdown_server.identity.credentials import AUTHORIZATION
from drawdown_server.rpc import wire
from drawdown_server.rpc.transport import CARRIER_BYTES_MAX
from drawdown_server.telemetry.tracing import TRACEPARENT, TRACESTATE

if TYPE_CHECKING:
    from drawdown_server.rpc.gate import CallContext, Metadata
    from drawdown_server.rpc.operations import Operations

EOF: Final = grpc.aio.EOF  # type: ignore[attr-defined]  # of its stubs
"""The client has half-closed the stream."""
IN_FLIGHT_MAX: Final = 256
"""Operations of one stream that are not answered: as many as one connection may have calls, or a Batch operations."""
_RESULTS: Final = wire.message_key(pb.SessionResponse.RESULTS_FIELD_NUMBER)
_TAG: Final = wire.number_key(pb.SessionResult.TAG_FIELD_NUMBER)
_RESULT: Final = wire.message_key(pb.SessionResult.RESULT_FIELD_NUMBER)
_GOING_AWAY: Final = pb.SessionResponse(going_away=True).SerializeToString()


class Stream(Protocol):
    """What we need of grpc.aio's context of a stream, and its stubs lack."""

    async def send_initial_metadata(self, metadata: tuple[()]) -> None:
        """Tell the client that its stream was taken."""

    async def read(self) -> object:
        """The next message as bytes, or ``EOF``."""

    async def write(self, message: bytes) -> None:
        """Send a message; returns when the client's flow control has let it go. One at a time."""


class Session:
    """One stream.

    Args:
        operations: Run them.
        metadata: Of the stream, with the credential.
        context: Of the stream.
        age_s: After that the client is asked to leave; 0: never.
    """

    def __init__(self, operations: Operations, metadata: Metadata, context: CallContext, *, age_s: float) -> None:
        self._operations = operations
        self._age_s = age_s
        # The credential alone, since all is read for each operation; and each brings its own trace, or has none.
        self._metadata = tuple(pair for pair in metadata or () if pair[0] == AUTHORIZATION)
        self._context = context
        self._stream = cast("Stream", context)
        self._running: dict[int, asyncio.Task[None]] = {}
        self._unanswered = 0
        self._changed: asyncio.Future[None] | None = None
        """Set while somebody waits for ``_unanswered`` to become smaller."""
        self._unsent: list[bytes] = []
        self._writer: asyncio.Task[object] | None = None
        """Whoever is sending; kept here so that it lives until it is done."""

    async def run(self) -> None:
        """Serve the stream until the client half-closes it, and everything is answered.

        Raises:
            DrawdownError: The client broke a rule of the stream, which ends with that.
        """
        aging = asyncio.get_running_loop().call_later(self._age_s, self.go_away) if self._age_s else None
        await self._stream.send_initial_metadata(())  # a client that waits for it knows that it was let in
        try:
            while (raw := await self._stream.read()) is not EOF:
                await self._take(wire.parsed(cast("bytes", raw), pb.SessionRequest.FromString, CARRIER_BYTES_MAX))
            while self._unanswered:
                await self._fewer()
        finally:
            if aging is not None:
                aging.cancel()
            for task in (*self._running.values(), self._writer):
                if task is not None:
                    task.cancel()

    def go_away(self) -> None:
        """Ask the client to leave."""
        self._unsent.append(_GOING_AWAY)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all())

    async def _take(self, request: pb.SessionRequest) -> None:
        for tag in request.cancelled_tags:
            task = self._running.pop(tag, None)
            if task is not None:
                task.cancel()
                self._end(1)
        for number, operation in enumerate(request.operations):
            if operation.tag in self._running:
                raise InvalidRequestError([Violation(f"operations[{number}].tag", "must not be in use")])
            while self._unanswered >= IN_FLIGHT_MAX:
                await self._fewer()
            self._unanswered += 1
            self._running[operation.tag] = asyncio.create_task(self._perform(operation))

    async def _perform(self, operation: pb.SessionOperation) -> None:
        tag, metadata = operation.tag, self._metadata
        if operation.traceparent:
            metadata = (*metadata, (TRACEPARENT, operation.traceparent), (TRACESTATE, operation.tracestate))
        timeout = operation.timeout
        timeout_s = timeout.seconds + timeout.nanos / 1e9 if operation.HasField("timeout") else math.inf
        result = await self._operations.perform(operation.operation, metadata, self._context, timeout_s)
        del self._running[tag]  # from here on it cannot be cancelled: it may write for others
        answer = wire.number_field(_TAG, tag) + wire.message_field(_RESULT, result)
        self._unsent.append(wire.message_field(_RESULTS, answer))
        await self._write()

    async def _write(self) -> None:
        """Send what there is to send, if nobody is at it."""
        if self._writer is None:
            self._writer = asyncio.current_task()
            await self._write_all()

    async def _write_all(self) -> None:
        try:
            if self._running:
                await asyncio.sleep(0)  # whoever else is done in this round of the loop comes along
            while self._unsent:
                messages, self._unsent = self._unsent, []
                await self._stream.write(b"".join(messages))  # repeated fields may come in pieces
                self._end(sum(message is not _GOING_AWAY for message in messages))
        except (grpc.aio.BaseError, asyncio.InvalidStateError):
            self._unsent.clear()  # the stream is over; whoever reads it is told
        finally:
            self._writer = None

    def _end(self, count: int) -> None:
        """So many operations are answered, or nobody waits for them."""
        self._unanswered -= count
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    async def _fewer(self) -> None:
        """Return when something was answered."""
        self._changed = asyncio.get_running_loop().create_future()
        await self._changed
