"""The pipelined connection: many calls in flight on one socket, replies matched in order.

A call is one write and one future. Nothing is ever sent twice: when a connection breaks, the calls in flight fail
with ``StoreUnavailableError`` (their outcome is unknown, which is why every script is idempotent by the caller's id)
and the next ones use a new connection. A caller that gives up (deadline, cancellation) leaves its future behind; its
reply is read in its turn, so replies can never be mixed up, and its outcome is counted (``abandoned``). A caller that
gives up before its call was sent has sent nothing.

Used for the hot path because a pooled client spends a socket and 38 us of CPU per call where this spends 4 us;
redis-py does everything else (start-up, administration).
"""

from __future__ import annotations

import asyncio
import re
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlsplit

import structlog
from redis.asyncio.connection import parse_url

from drawdown_server import deadline, turns
from drawdown_server.errors import ConfigurationError, DrawdownError, StoreUnavailableError
from drawdown_server.holds import keys
from drawdown_server.holds.abandoned import AbandonedCalls
from drawdown_server.holds.address import address_of
from drawdown_server.holds.socket import Socket, pack
from drawdown_server.holds.store_connection import opened

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable
    from contextlib import AbstractAsyncContextManager

    from drawdown_server.holds.socket import Reply

log = structlog.get_logger(__name__)

RECONNECT_PAUSE_S: Final = 0.05
"""First pause before another attempt to connect; doubles up to ``RECONNECT_PAUSE_MAX_S``."""
RECONNECT_PAUSE_MAX_S: Final = 1.0
RECONNECT_WAIT_S: Final = 0.25
"""How long a call waits for a connection that is being made again: longer than a restart of the network, shorter than
a gateway's patience."""
WATCH_PARTS: Final = 4
"""The age of the oldest call is looked at this many times per timeout."""
STOOD_STILL_PART: Final = 0.75
"""A look that comes so much of a timeout after the one before is late by more than a busy moment: this process was
stopped, or its machine was. The store gets a whole timeout from then on."""

RESERVED_PART: Final = 4
"""Calls that settle a hold have room of their own, one to so many of all: when a slow store and retries fill the rest,
new holds wait and are refused, and what was approved can still be committed or given back."""
CLOSE_WAIT_S: Final = 1.0
"""How long the answers of abandoned calls are awaited at the end, so that their outcome is known."""

ASKING: Final = ("ASKING",)

_RUN_ID: Final = re.compile(rb"^run_id:(\w+)", re.MULTILINE)


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


class PipelinedConnection:
    """A connection that is made again whenever it breaks.

    Args:
        url: ``redis://``, ``rediss://`` (TLS) or ``unix://`` with user, password and database.
        timeout_ms: When the oldest call in flight is older than this, the store counts as down: the connection is
            dropped and every call on it fails.
        in_flight_max: Calls in flight; more wait their turn, no longer than for an answer. Those that settle holds have
            a quarter of it more.
        abandoned: Where calls are counted that nobody waits for any more; None: of this connection alone.
        on_lost: Called whenever the connection broke, or could not be made again.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_ms: int,
        in_flight_max: int,
        abandoned: AbandonedCalls | None = None,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._options = parse_url(url)
        self._node = str(self._options.get("path") or address_of(url))
        """What the log calls it."""
        self._tls = _tls_context(url) if url.startswith("rediss://") else None
        self._timeout_s = timeout_ms / 1000
        self._room = asyncio.Semaphore(in_flight_max)
        self._reserved = asyncio.Semaphore(max(1, in_flight_max // RESERVED_PART))
        self.abandoned = abandoned or AbandonedCalls()
        self._on_lost = on_lost
        self._socket: Socket | None = None
        self._connected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._verify: Callable[[], Awaitable[None]] | None = None
        self._run_id = ""
        self._run_id_in_question = ""

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
        self.begin()

    def begin(self) -> None:
        """Connect in the background; what is found there is verified before it is used."""
        self._task = asyncio.create_task(self._keep_connected(), name="valkey-connection")

    async def close(self) -> None:
        """Close; calls that are in flight for longer than ``CLOSE_WAIT_S`` fail. Closing twice is no error."""
        if self._connected.is_set() and self.in_flight:
            # Replies come in order: when this one is here, so are those of all calls that nobody waits for any more.
            with suppress(DrawdownError, TimeoutError):
                async with asyncio.timeout(CLOSE_WAIT_S):
                    await self.call("PING", settles=True)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._socket is not None:
            self._socket.abort()  # not close: that waits for a store that may have stopped reading
            await self._socket.closed
        self._connected.clear()

    async def call(
        self,
        *command: bytes | str | int,
        partition: int = 0,  # noqa: ARG002  # whichever it is, it is here
        settles: bool = False,
        asking: bool = False,
    ) -> Reply:
        """Send one command and wait for its reply.

        Args:
            command: Its name and arguments.
            partition: Of its keys.
            settles: Whether it may use the room that is reserved for calls that settle holds.
            asking: Whether this node of a cluster is about to get the partition, and another one sent us here for this
                command alone.

        Raises:
            StoreUnavailableError: The store is down, in trouble, or did not answer in time. Unless it refused the
                call, whether the command ran is unknown.
            DrawdownError: INTERNAL, when the script itself failed; DEADLINE_EXCEEDED, when it had to wait until its
                caller had too little time left (``deadline.py``): it was not sent.
        """
        packed = pack(*command)
        room = self._room  # until the reply is here, also when the caller is not any more
        if room.locked():
            room = await self._wait_for_room(settles=settles)
        else:
            await room.acquire()
        try:
            if not self._connected.is_set():
                await self._wait_for_connection()
        except BaseException:
            room.release()
            raise
        assert self._socket is not None  # noqa: S101  # _connected says so
        if asking:
            self._socket.send_unheard(ASKING)
        reply = self._socket.send(command, packed, room)
        turns.pass_on()
        return await reply

    async def ping(self) -> None:
        """Return when the store answers. Not held up by others that wait for room.

        Raises:
            StoreUnavailableError: It does not.
        """
        await self.call("PING", settles=True)

    async def prove(self, partition: int = 0) -> frozenset[str]:
        """Write, changing nothing. Returns the run_id of the store that took it.

        Raises:
            StoreUnavailableError: It did not.
        """
        await self.call("UNLINK", keys.presence(partition), settles=True)  # not held up by others that wait for room
        return frozenset([self._run_id])

    @property
    def run_id(self) -> str:
        """What identifies this run of the store; empty where INFO is not allowed, or while nobody vouches for it."""
        return self._run_id

    @property
    def run_id_in_question(self) -> str:
        """Of the store that is being verified at this moment; empty: none is."""
        return self._run_id_in_question

    @property
    def is_up(self) -> bool:
        """Whether the next call would be sent at once."""
        return self._connected.is_set()

    def groups(self, partitions: Iterable[int]) -> list[list[int]]:
        """Partitions that are on one node, together: all are on this one."""
        return [list(partitions)]

    def partitions_of(self, run_ids: Collection[str]) -> None:  # all are here
        """All that there are."""

    def distrust(self, run_ids: Collection[str] | None = None) -> None:  # noqa: ARG002  # it is the only one
        """Drop the connection, and verify whatever store is found at the next one, even if it is the same."""
        self.doubt()
        if self._socket is not None:
            self._socket.abort()

    def doubt(self, run_ids: Collection[str] | None = None) -> None:
        """Verify the store when it is connected the next time, even if it is the same; None: whichever it is."""
        if run_ids is None or self._run_id in run_ids:
            self._run_id = ""

    @property
    def in_flight(self) -> int:
        """Calls sent and not yet answered."""
        return len(self._socket.in_flight) if self._socket else 0

    async def _wait_for_room(self, *, settles: bool) -> asyncio.Semaphore:
        room = self._reserved if settles else self._room
        try:
            async with asyncio.timeout(self._timeout_s):
                await room.acquire()
        except TimeoutError:
            raise StoreUnavailableError("valkey", "too many calls wait for valkey") from None
        try:
            deadline.check()
        except DrawdownError:
            room.release()
            raise
        return room

    async def _wait_for_connection(self) -> None:
        try:
            async with asyncio.timeout(RECONNECT_WAIT_S):
                await self._connected.wait()
        except TimeoutError:
            raise StoreUnavailableError("valkey") from None
        deadline.check()

    async def _connect(self) -> tuple[Socket, str]:
        """A new connection, and the run_id of the store at its other end."""
        socket: Socket | None = None
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
            log.warning("valkey.connect_failed", node=self._node, error=str(error) or type(error).__name__)
            raise StoreUnavailableError("valkey") from None
        return socket, run_id

    async def _dial(self) -> Socket:
        loop = asyncio.get_running_loop()
        options = self._options

        def new_socket() -> Socket:
            return Socket(self.abandoned.note)

        if "path" in options:
            _, socket = await loop.create_unix_connection(new_socket, options["path"])
        else:
            _, socket = await loop.create_connection(
                new_socket, options.get("host", "localhost"), options.get("port", 6379), ssl=self._tls
            )
        return socket

    async def _greet(self, socket: Socket) -> None:
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

    async def _ask(self, socket: Socket, *command: bytes | str | int) -> Reply:
        """Send a command on a connection that nobody else uses yet: it needs no room of theirs."""
        return await socket.send(command, pack(*command), asyncio.Semaphore())

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = RECONNECT_PAUSE_S
        while True:
            if self._socket is not None:  # else it is to be made for the first time
                since_s = loop.time()
                await self._watch(self._socket)
                self._connected.clear()
                log.warning("valkey.connection_lost", node=self._node)
                self._on_lost()
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
                    if self._socket is not None:
                        self._socket.abort()  # a new one that nobody vouches for, or the old one, which is closed
                    self._on_lost()
                    if isinstance(error, ConfigurationError):
                        log.error("valkey.unfit", error=str(error))  # noqa: TRY400  # a sentence, not a fault of ours
                    elif not isinstance(error, StoreUnavailableError):
                        log.exception("valkey.check_failed")
                    await asyncio.sleep(pause_s)
            log.info("valkey.connected_again", node=self._node)

    async def _check_same_store(self, run_id: str) -> None:
        """Verify a store that was restarted or replaced since; the same process has lost nothing."""
        if self._verify is not None and (run_id != self._run_id or not run_id):
            self._run_id_in_question = run_id
            try:
                await self._verify()
            finally:
                self._run_id_in_question = ""
        self._run_id = run_id

    async def _read_run_id(self, socket: Socket) -> str:
        """What identifies this run of the store; empty where INFO is not allowed."""
        try:
            info = await self._ask(socket, "INFO", "server")
        except StoreUnavailableError:
            raise
        except DrawdownError:
            return ""
        found = _RUN_ID.search(info) if isinstance(info, bytes) else None
        return found[1].decode() if found else ""

    async def _watch(self, socket: Socket) -> None:
        """Return when the connection is gone; drop it when its oldest call has waited too long."""
        loop = asyncio.get_running_loop()
        awake_since_s = loop.time()
        while not socket.closed.done():
            looked_s = loop.time()
            await asyncio.wait([socket.closed], timeout=self._timeout_s / WATCH_PARTS)
            now_s = loop.time()
            if now_s - looked_s > self._timeout_s * STOOD_STILL_PART:
                awake_since_s = now_s  # we stood still, and the whole machine perhaps: it says nothing of the store
            if socket.in_flight and now_s - max(socket.in_flight[0][1], awake_since_s) > self._timeout_s:
                log.warning("valkey.timeout", node=self._node, in_flight=len(socket.in_flight))
                socket.abort()
                await socket.closed


def open_connection(
    url: str, *, timeout_ms: int, in_flight_max: int
) -> AbstractAsyncContextManager[PipelinedConnection]:
    """A ``PipelinedConnection`` that is open inside the block."""
    return opened(PipelinedConnection(url, timeout_ms=timeout_ms, in_flight_max=in_flight_max))
