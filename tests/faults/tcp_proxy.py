"""A TCP proxy that behaves badly on demand: latency, slow lines, slices, cuts, half-open connections, lost messages.

It stands in front of a store, or with ``counts_replies=False`` in front of anything else.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal, Self

Way = Literal["requests", "replies"]
Loss = Literal["cut", "silence"]

HOST: Final = "127.0.0.1"
READ_BYTES: Final = 65_536


class ReplyCounter:
    """Finds where RESP2 replies end in a stream of bytes."""

    def __init__(self) -> None:
        self.replies = 0
        self._pending = b""

    def take(self, data: bytes, limit: int | None) -> int:
        """How many bytes of ``data`` are within the first ``limit`` replies of this connection; counts them."""
        held = len(self._pending)
        self._pending += data
        position = 0
        while limit is None or self.replies < limit:
            end = reply_end(self._pending, position)
            if end is None:
                self._pending = self._pending[position:]
                return len(data)
            position, self.replies = end, self.replies + 1
        self._pending = self._pending[position:]
        return max(0, position - held)


def reply_end(buffer: bytes, start: int) -> int | None:
    """Where the RESP2 value that begins at ``start`` ends; None while it is not complete."""
    line_end = buffer.find(b"\r\n", start)
    if line_end < 0:
        return None
    kind, position = buffer[start : start + 1], line_end + 2
    if kind in b"$*":
        size = int(buffer[start + 1 : line_end])
        if kind == b"$":
            position += 0 if size < 0 else size + 2
            return position if position <= len(buffer) else None
        for _ in range(max(size, 0)):
            end = reply_end(buffer, position)
            if end is None:
                return None
            position = end
    return position


async def drop(writer: asyncio.StreamWriter) -> None:
    """Reset a connection and wait until it is gone."""
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


@dataclass(frozen=True)
class Losing:
    """What is to be lost: the request that contains some bytes, or its reply; and what happens then."""

    part: bytes
    loss: Loss
    way: Way


@dataclass(eq=False)
class Link:
    """One client's connection and its twin to the store."""

    client: asyncio.StreamWriter
    store: asyncio.StreamWriter
    counter: ReplyCounter = field(default_factory=ReplyCounter)
    losing: Losing | None = None


class TcpProxy:
    """``async with TcpProxy(port) as proxy`` and connect to ``proxy.port`` or ``proxy.url``.

    Everything may be changed while calls are in flight:

    ``latency_s``
        Seconds before each piece of a reply goes on.
    ``piece_bytes``
        Replies go on in pieces of this size; 0 leaves them as they come.
    ``bytes_per_s``
        How fast replies go on; 0 is as fast as they come.
    ``replies_max``
        A connection gets this many replies and no more; what its requests do in the store, they do. None: all.
    ``cut_after_replies``
        Whether a connection is cut when its replies are used up, rather than left waiting.

    Args:
        port: Of the store, on this machine.
        counts_replies: Whether to look for the ends of RESP2 replies, which ``replies_max`` needs.
    """

    def __init__(self, port: int, *, counts_replies: bool = True) -> None:
        self._store_port = port
        self._counts_replies = counts_replies
        self._server: asyncio.Server | None = None
        self._flows: dict[Way, asyncio.Event] = {"requests": asyncio.Event(), "replies": asyncio.Event()}
        self.resume()
        self._losing: Losing | None = None
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.latency_s = 0.0
        self.piece_bytes = 0
        self.bytes_per_s = 0
        self.replies_max: int | None = None
        self.cut_after_replies = False
        self.accepted = 0
        """Connections so far."""
        self.lost = asyncio.Event()
        """Set once what ``lose`` asked for has come and was thrown away."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._links)

    def stall(self, *ways: Way) -> None:
        """Go half-open: connections stay and new ones are accepted, but no byte moves these ways; default both."""
        for way in ways or self._flows:
            self._flows[way].clear()

    def resume(self) -> None:
        """Let the bytes move again."""
        for flow in self._flows.values():
            flow.set()

    def lose(self, part: bytes, loss: Loss, way: Way = "replies") -> None:
        """Throw away the next request that contains ``part``, or its reply; then cut the connection or keep silent.

        In silence nothing that comes later on that connection gets through this way either.
        """
        self._losing = Losing(part, loss, way)
        self.lost.clear()

    def lead_to(self, port: int) -> None:
        """New connections go to another store, as those to a virtual address do after a failover."""
        self._store_port = port

    def cut(self) -> None:
        """Reset every connection, as a firewall does."""
        for link in self._links:
            link.client.transport.abort()
            link.store.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            with suppress(OSError):
                store_reader, store_writer = await asyncio.open_connection(HOST, self._store_port)
                await self._join(Link(writer, store_writer), reader, store_reader)
        except asyncio.CancelledError:
            pass  # the proxy is closing; asyncio would log a handler that was cancelled
        finally:
            await drop(writer)

    async def _join(self, link: Link, client: asyncio.StreamReader, store: asyncio.StreamReader) -> None:
        self._links.add(link)
        ways = [asyncio.create_task(self._requests(client, link)), asyncio.create_task(self._replies(store, link))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._links.discard(link)
            await drop(link.client)
            await drop(link.store)

    async def _requests(self, client: asyncio.StreamReader, link: Link) -> None:
        flow = self._flows["requests"]
        while await flow.wait() and (data := await client.read(READ_BYTES)):
            await flow.wait()
            if self._losing is not None and self._losing.part in data:
                link.losing, self._losing = self._losing, None
            if link.losing is not None and link.losing.way == "requests":
                self.lost.set()
                if link.losing.loss == "cut":
                    return
                continue
            link.store.write(data)
            await link.store.drain()

    async def _replies(self, store: asyncio.StreamReader, link: Link) -> None:
        flow = self._flows["replies"]
        while await flow.wait() and (data := await store.read(READ_BYTES)):
            if link.losing is not None and link.losing.way == "replies":
                self.lost.set()
                if link.losing.loss == "cut":
                    return
                continue
            if self._counts_replies:
                data = data[: link.counter.take(data, self.replies_max)]
            await self._pass_on(data, link)
            if self.cut_after_replies and self.replies_max is not None and link.counter.replies >= self.replies_max:
                return

    async def _pass_on(self, data: bytes, link: Link) -> None:
        step = self.piece_bytes or len(data) or 1
        for start in range(0, len(data), step):
            piece = data[start : start + step]
            # 0 lets every piece become a packet of its own
            await asyncio.sleep(self.latency_s + (len(piece) / self.bytes_per_s if self.bytes_per_s else 0))
            await self._flows["replies"].wait()
            link.client.write(piece)
            await link.client.drain()
