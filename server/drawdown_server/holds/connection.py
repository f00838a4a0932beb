"""The pipelined connection: many calls in flight on one socket, replies matched in order.

A call is one write and one future. Nothing is ever sent twice: when a connection breaks, the calls in flight fail
with ``StoreUnavailableError`` (their outcome is unknown, which is why every script is idempotent by the caller's id)
and the next ones use a new connection. A caller that gives up (deadline, cancellation) leaves its future behind; its
reply is read and dropped in its turn, so replies can never be mixed up.

Used for the hot path because a pooled client spends a socket and 38 us of CPU per call where this spends 4 us;
redis-py does everything else (start-up, administration).
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import parse_qsl, urlsplit

import hiredis
import structlog
from redis.asyncio.connection import parse_url

from drawdown_server.errors import ConfigurationError, DrawdownError, ErrorReason, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

Reply = bytes | int | list["Reply"] | None
"""What Redis answers; errors are raised."""

log = structlog.get_logger(__name__)

RECONNECT_PAUSE_S: Final = 0.05
"""First pause before another attempt to connect; doubles up to ``RECONNECT_PAUSE_MAX_S``."""
RECONNECT_PAUSE_MAX_S: Final = 1.0
RECONNECT_WAIT_S: Final = 0.25
"""How long a call waits for a connection that is being made again: longer than a restart of the network, shorter than
a gateway's patience."""
WATCH_PARTS: Final = 4
"""The age of the oldest call is looked at this many times per timeout."""

_RUN_ID: Final = re.compile(rb"^run_id:(\w+)", re.MULTILINE)
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


class FunctionMissingError(StoreUnavailableError):
    """The store has lost the function library; the script did not run."""

    def __init__(self) -> None:
        super().__init__("valkey", "valkey has lost the hold scripts")


class _Socket(asyncio.Protocol):
    """One TCP, TLS or unix connection."""

    def __init__(self, on_answered: Callable[[], None]) -> None:
        self.transport: asyncio.Transport | None = None
        self._on_answered = on_answered
        self.closed = asyncio.get_running_loop().create_future()
        self.in_flight: deque[tuple[asyncio.Future[Reply], float]] = deque()
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=hiredis.ReplyError)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio promises a Transport to stream protocols; uvloop's is one in all but its class.
        self.transport = cast("asyncio.Transport", transport)

    def send(self, command: bytes) -> asyncio.Future[Reply]:
        """Write a packed command; its reply arrives in the future."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        if self.transport is None or self.closed.done():
            self._on_answered()
            future.set_exception(StoreUnavailableError("valkey"))
            return future
        self.in_flight.append((future, self._loop.time()))
        self.transport.write(command)
        return future

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                future, _ = self.in_flight.popleft()
                self._on_answered()
                if future.done():  # the caller gave up
                    continue
                if isinstance(reply, hiredis.ReplyError):
                    future.set_exception(_domain_error(str(reply)))
                    if str(reply).startswith("READONLY"):
                        self.abort()  # it is a replica by now: the address may lead to the new primary
                else:
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            log.exception("valkey.protocol_error")
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        if not self.closed.done():
            self.closed.set_result(None)
        while self.in_flight:
            future, _ = self.in_flight.popleft()
            self._on_answered()
            if not future.done():
                future.set_exception(StoreUnavailableError("valkey", "the connection to valkey broke"))

    def abort(self) -> None:
        """Drop the connection at once."""
        if self.transport is not None:
            self.transport.abort()


def _tls_context(url: str) -> ssl.SSLContext:
    """TLS with the options that redis-py knows in a URL.

    ssl_ca_certs, ssl_certfile and ssl_keyfile (paths), ssl_check_hostname (false), ssl_cert_reqs (none).
    """
    options = dict(parse_qsl(urlsplit(url).query))
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if "ssl_certfile" in options:
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    if options.get("ssl_check_hostname", "true").lower() == "false" or options.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
    if options.get("ssl_cert_reqs") == "none":
        context.verify_mode = ssl.CERT_NONE
    return context


def pack(*command: bytes | str | int) -> bytes:
    """A command as it goes over the wire."""
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub says 1-tuple and means any
    return packed


def _domain_error(text: str) -> DrawdownError:
    """What a Redis error means to us; its text goes to the log, not to callers."""
    if "unction not found" in text:
        return FunctionMissingError()
    if text.startswith(UNAVAILABLE_PREFIXES):
        log.warning("valkey.refused", error=text)
        return StoreUnavailableError("valkey", "valkey cannot take this call now")
    log.error("valkey.error", error=text)
    return DrawdownError(ErrorReason.INTERNAL, "internal error")


class PipelinedConnection:
    """A connection that is made again whenever it breaks.

    Args:
        url: ``redis://``, ``rediss://`` (TLS) or ``unix://`` with user, password and database.
        timeout_ms: When the oldest call in flight is older than this, the store counts as down: the connection is
            dropped and every call on it fails.
        in_flight_max: Calls in flight; more wait their turn.
    """

    def __init__(self, url: str, *, timeout_ms: int, in_flight_max: int) -> None:
        self._options = parse_url(url)
        self._tls = _tls_context(url) if url.startswith("rediss://") else None
        self._timeout_s = timeout_ms / 1000
        self._room = asyncio.Semaphore(in_flight_max)
        self._socket: _Socket | None = None
        self._connected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._verify: Callable[[], Awaitable[None]] | None = None
        self._run_id = ""

    def on_reconnect(self, verify: Callable[[], Awaitable[None]]) -> None:
        """Before a store that was restarted or replaced is used, await this: it may have lost state.

        While it raises anything, the store counts as down.
        """
        self._verify = verify

    async def open(self) -> None:
        """Connect.

        Raises:
            StoreUnavailableError: There is no store at that address, or it refuses us.
        """
        self._socket, self._run_id = await self._connect()
        self._connected.set()
        self._task = asyncio.create_task(self._keep_connected(), name="valkey-connection")

    async def close(self) -> None:
        """Close; calls in flight fail. Closing twice is no error."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._socket is not None:
            self._socket.abort()  # not close: that waits for a store that may have stopped reading
            await self._socket.closed
        self._connected.clear()

    async def call(self, *command: bytes | str | int) -> Reply:
        """Send one command and wait for its reply.

        Raises:
            StoreUnavailableError: The store is down, in trouble, or did not answer in time. Unless it refused the
                call, whether the command ran is unknown.
            DrawdownError: INTERNAL, when the script itself failed.
        """
        packed = pack(*command)
        await self._room.acquire()  # until the reply is here, also when the caller is not any more
        try:
            if not self._connected.is_set():
                await self._wait_for_connection()
        except BaseException:
            self._room.release()
            raise
        assert self._socket is not None  # noqa: S101  # _connected says so
        return await self._socket.send(packed)

    @property
    def run_id(self) -> str:
        """What identifies this run of the store; empty where INFO is not allowed, or while nobody vouches for it."""
        return self._run_id

    def distrust(self) -> None:
        """Drop the connection, and verify whatever store is found at the next one, even if it is the same."""
        self._run_id = ""
        if self._socket is not None:
            self._socket.abort()

    @property
    def in_flight(self) -> int:
        """Calls sent and not yet answered."""
        return len(self._socket.in_flight) if self._socket else 0

    async def _wait_for_connection(self) -> None:
        try:
            async with asyncio.timeout(RECONNECT_WAIT_S):
                await self._connected.wait()
        except TimeoutError:
            raise StoreUnavailableError("valkey") from None

    async def _connect(self) -> tuple[_Socket, str]:
        """A new connection, and the run_id of the store at its other end."""
        socket: _Socket | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                socket = await self._dial()
                await self._greet(socket)
                run_id = await self._read_run_id(socket)
        except BaseException as error:
            if socket is not None:
                socket.abort()
            if not isinstance(error, OSError | TimeoutError):
                raise
            log.warning("valkey.connect_failed", error=str(error) or type(error).__name__)
            raise StoreUnavailableError("valkey") from None
        return socket, run_id

    async def _dial(self) -> _Socket:
        loop = asyncio.get_running_loop()
        options = self._options

        def new_socket() -> _Socket:
            return _Socket(self._room.release)

        if "path" in options:
            _, socket = await loop.create_unix_connection(new_socket, options["path"])
        else:
            _, socket = await loop.create_connection(
                new_socket, options.get("host", "localhost"), options.get("port", 6379), ssl=self._tls
            )
        return socket

    async def _greet(self, socket: _Socket) -> None:
        """Introduce ourselves: password, database, a name for CLIENT LIST."""
        options = self._options
        try:
            if options.get("password"):
                user = [options["username"]] if options.get("username") else []
                await self._ask(socket, "AUTH", *user, options["password"])
            if options.get("db"):
                await self._ask(socket, "SELECT", options["db"])
            await self._ask(socket, "CLIENT", "SETNAME", "drawdown")
        except DrawdownError as error:
            socket.abort()
            raise StoreUnavailableError("valkey", "valkey refused the connection") from error

    async def _ask(self, socket: _Socket, *command: bytes | str | int) -> None:
        await self._room.acquire()
        await socket.send(pack(*command))

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = RECONNECT_PAUSE_S
        while True:
            assert self._socket is not None  # noqa: S101  # open() has set it
            since_s = loop.time()
            await self._watch(self._socket)
            self._connected.clear()
            log.warning("valkey.connection_lost")
            if loop.time() - since_s > RECONNECT_PAUSE_MAX_S:
                pause_s = RECONNECT_PAUSE_S
            else:  # a store that accepts us and drops us at once is no better than one that is down
                await asyncio.sleep(pause_s)
            while not self._connected.is_set():
                pause_s = min(pause_s * 2, RECONNECT_PAUSE_MAX_S)
                try:
                    self._socket, run_id = await self._connect()
                    await self._check_same_store(run_id)
                    self._connected.set()
                except Exception as error:  # whatever it is, this loop must outlive it: nothing else connects again
                    self._socket.abort()  # a new one that nobody vouches for, or the old one, which is closed
                    if isinstance(error, ConfigurationError):
                        log.error("valkey.unfit", error=str(error))  # noqa: TRY400  # a sentence, not a fault of ours
                    elif not isinstance(error, StoreUnavailableError):
                        log.exception("valkey.check_failed")
                    await asyncio.sleep(pause_s)
            log.info("valkey.connected_again")

    async def _check_same_store(self, run_id: str) -> None:
        """Verify a store that was restarted or replaced since; the same process has lost nothing."""
        if self._verify is not None and (run_id != self._run_id or not run_id):
            await self._verify()
        self._run_id = run_id

    async def _read_run_id(self, socket: _Socket) -> str:
        """What identifies this run of the store; empty where INFO is not allowed."""
        await self._room.acquire()
        try:
            info = await socket.send(pack("INFO", "server"))
        except StoreUnavailableError:
            raise
        except DrawdownError:
            return ""
        found = _RUN_ID.search(info) if isinstance(info, bytes) else None
        return found[1].decode() if found else ""

    async def _watch(self, socket: _Socket) -> None:
        """Return when the connection is gone; drop it when its oldest call has waited too long."""
        loop = asyncio.get_running_loop()
        while not socket.closed.done():
            await asyncio.wait([socket.closed], timeout=self._timeout_s / WATCH_PARTS)
            if socket.in_flight and loop.time() - socket.in_flight[0][1] > self._timeout_s:
                log.warning("valkey.timeout", in_flight=len(socket.in_flight))
                socket.abort()
                await socket.closed


@asynccontextmanager
async def open_connection(url: str, *, timeout_ms: int, in_flight_max: int) -> AsyncIterator[PipelinedConnection]:
    """A ``PipelinedConnection`` that is open inside the block."""
    connection = PipelinedConnection(url, timeout_ms=timeout_ms, in_flight_max=in_flight_max)
    await connection.open()
    try:
        yield connection
    finally:
        await connection.close()
