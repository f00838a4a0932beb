"""One connection to Valkey: bytes out, replies in order, and what their errors mean to us."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import hiredis
import structlog

from drawdown_server.errors import DrawdownError, ErrorReason, StoreUnavailableError
from drawdown_server.holds.address import parse_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from drawdown_server.holds.address import Address

Reply: TypeAlias = "bytes | int | list[Reply] | None"
"""What Redis answers; errors are raised."""

Command: TypeAlias = tuple[bytes | str | int, ...]
"""As it is given, not packed."""

log = structlog.get_logger(__name__)

UNAVAILABLE_PREFIXES: Final = (
    "OOM",
    "BUSY",
    "LOADING",
    "MISCONF",
    "READONLY",
    "NOREPLICAS",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
)
"""Errors that a store in trouble answers before it runs a script: the call had no effect and may be sent again."""
REDIRECT_PREFIXES: Final = ("MOVED ", "ASK ", "TRYAGAIN Multiple keys")
"""Refusals of a node of a cluster that does not have all keys of the command, now. (Our scripts say TRYAGAIN too.)"""
WRITTEN_TOGETHER_MAX: Final = 8
"""Commands in one write. A Batch makes dozens in one round: the store runs the first while the last are still made."""
KILLED: Final = "killed by user"
"""In the error of a script that FUNCTION KILL ended. Redis kills none that has written: it had no effect either."""


class ConnectionLostError(StoreUnavailableError):
    """The connection broke before the answer came; whether the command ran is unknown."""

    def __init__(self) -> None:
        super().__init__("valkey", "the connection to valkey broke")


class FunctionMissingError(StoreUnavailableError):
    """The store has lost the function library; the script did not run."""

    def __init__(self) -> None:
        super().__init__("valkey", "valkey has lost the hold scripts")


class RedirectError(StoreUnavailableError):
    """This node of a cluster does not take the command, which had no effect, because its partition is moving.

    Args:
        address: Where it is now; None: on the way (TRYAGAIN).
        asks: Whether it is there for this one command (ASK), and not yet for good (MOVED).
    """

    def __init__(self, address: Address | None, *, asks: bool) -> None:
        super().__init__("valkey", "valkey cannot take this call now")
        self.address = address
        self.asks = asks


InFlight: TypeAlias = "tuple[asyncio.Future[Reply], float, Command, asyncio.Semaphore]"
"""A command that was sent and is not answered yet: the future of its reply (cancelled when the caller gave up), when it
was sent (by the event loop's clock), itself, and the room to give back with the answer."""


class Socket(asyncio.Protocol):
    """One TCP, TLS or unix connection.

    Args:
        on_abandoned: Hears of every command whose caller had given up before its answer came: the command, and the
            reply, the error, or the loss of the connection.
    """

    def __init__(self, on_abandoned: Callable[[Command, Reply | Exception], None]) -> None:
        self.transport: asyncio.Transport | None = None
        self._on_abandoned = on_abandoned
        self.closed = asyncio.get_running_loop().create_future()
        self.in_flight: deque[InFlight] = deque()
        self._unsent: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=hiredis.ReplyError)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio's: the connection stands."""
        # asyncio promises a Transport to stream protocols; uvloop's is one in all but its class.
        self.transport = cast("asyncio.Transport", transport)

    def send(self, command: Command, packed: bytes, room: asyncio.Semaphore) -> asyncio.Future[Reply]:
        """Write a packed command; its reply arrives in the future, and the room is given back, whoever still waits.

        A command that finds none in flight is written at once. Those that come while others are wait for the end of
        this round of the loop, or for so many, and are written together: the store reads, runs and syncs them together.
        """
        future: asyncio.Future[Reply] = self._loop.create_future()
        if self.transport is None or self.closed.done():
            room.release()
            future.set_exception(StoreUnavailableError("valkey"))
            return future
        self.in_flight.append((future, self._loop.time(), command, room))
        if len(self.in_flight) == 1:
            self.transport.write(packed)
        else:
            if not self._unsent:
                self._loop.call_soon(self._write_unsent)
            self._unsent.append(packed)
            if len(self._unsent) == WRITTEN_TOGETHER_MAX:
                self._write_unsent()
        return future

    def _write_unsent(self) -> None:
        if self._unsent and self.transport is not None and not self.closed.done():
            self.transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def send_unheard(self, command: Command) -> None:
        """Write a command whose reply tells nothing that the next one's does not."""
        self.send(command, pack(*command), asyncio.Semaphore()).add_done_callback(_forget)

    def data_received(self, data: bytes) -> None:
        """Asyncio's: some bytes of replies."""
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                future, _, command, room = self.in_flight.popleft()
                room.release()
                if isinstance(reply, hiredis.ReplyError):
                    self._fail(future, command, domain_error(str(reply)))
                    if str(reply).startswith("READONLY"):
                        self.abort()  # it is a replica by now: the address may lead to the new primary
                elif future.done():
                    self._on_abandoned(command, reply)
                else:
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            log.exception("valkey.protocol_error")
            self.abort()

    def _fail(self, future: asyncio.Future[Reply], command: Command, error: DrawdownError) -> None:
        if future.done():
            self._on_abandoned(command, error)
        else:
            future.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """Asyncio's: it is gone, and with it every command in flight."""
        if not self.closed.done():
            self.closed.set_result(None)
        while self.in_flight:
            future, _, command, room = self.in_flight.popleft()
            room.release()
            self._fail(future, command, ConnectionLostError())

    def abort(self) -> None:
        """Drop the connection at once."""
        if self.transport is not None:
            self.transport.abort()


def _forget(reply: asyncio.Future[Reply]) -> None:
    """Nobody asks for it; an error that nobody looked at would be logged as a mistake."""
    if not reply.cancelled():
        reply.exception()


def pack(*command: bytes | str | int) -> bytes:
    """A command as it goes over the wire."""
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub says 1-tuple and means any
    return packed


def domain_error(text: str) -> DrawdownError:
    """What a Redis error means to us; its text goes to the log, not to callers."""
    if "unction not found" in text:
        return FunctionMissingError()
    if text.startswith(REDIRECT_PREFIXES):
        return _redirect(text)
    if text.startswith(UNAVAILABLE_PREFIXES) or KILLED in text:
        log.warning("valkey.refused", error=text)
        return StoreUnavailableError("valkey", "valkey cannot take this call now")
    log.error("valkey.error", error=text)
    return DrawdownError(ErrorReason.INTERNAL, "internal error")


def _redirect(text: str) -> RedirectError:
    """``MOVED 3999 host:port``, ``ASK 3999 host:port``, or ``TRYAGAIN`` and a sentence."""
    kind, *place = text.split()
    try:
        if kind != "TRYAGAIN":
            return RedirectError(parse_address(place[1]), asks=kind == "ASK")
    except (IndexError, ValueError):
        log.warning("valkey.refused", error=text)  # it names no address: its host is not known yet
    return RedirectError(None, asks=False)
