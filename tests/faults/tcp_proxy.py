"""A TCP proxy in front of a store that behaves badly on demand: lost replies, cuts, half-open connections, latency."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Self

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


@dataclass(eq=False)
class Link:
    """One client's connection and its twin to the store."""

    client: asyncio.StreamWriter
    store: asyncio.StreamWriter
    counter: ReplyCounter = field(default_factory=ReplyCounter)


class TcpProxy:
    """``async with TcpProxy(port) as proxy`` and connect to ``proxy.url``.

    Everything may be changed while calls are in flight:

    ``latency_s``
        Seconds before each piece of a reply goes on.
    ``piece_bytes``
        Replies go on in pieces of this size; 0 leaves them as they come.
    ``replies_max``
        A connection gets this many replies and no more; what its requests do in the store, they do. None: all.
    ``cut_after_replies``
        Whether a connection is cut when its replies are used up, rather than left waiting.
    """

    def __init__(self, port: int) -> None:
        self._store_port = port
        self._server: asyncio.Server | None = None
        self._flow = asyncio.Event()
        self._flow.set()
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.latency_s = 0.0
        self.piece_bytes = 0
        self.replies_max: int | None = None
        self.cut_after_replies = False
        self.accepted = 0
        """Connections so far."""

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

    def stall(self) -> None:
        """Go half-open: connections stay and new ones are accepted, but no byte moves either way."""
        self._flow.clear()

    def resume(self) -> None:
        """Let the bytes move again."""
        self._flow.set()

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
        while await self._flow.wait() and (data := await client.read(READ_BYTES)):
            await self._flow.wait()
            link.store.write(data)
            await link.store.drain()

    async def _replies(self, store: asyncio.StreamReader, link: Link) -> None:
        while await self._flow.wait() and (data := await store.read(READ_BYTES)):
            data = data[: link.counter.take(data, self.replies_max)]
            step = self.piece_bytes or len(data) or 1
            for start in range(0, len(data), step):
                await asyncio.sleep(self.latency_s)  # 0 lets every piece become a packet of its own
                await self._flow.wait()
                link.client.write(data[start : start + step])
                await link.client.drain()
            if self.cut_after_replies and self.replies_max is not None and link.counter.replies >= self.replies_max:
                return
