"""A TCP proxy that loses replies on demand: the script ran, nobody hears of it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHUNK = 65_536

Loss = Literal["cut", "silence"]


class Proxy:
    """Forwards both ways; ``lose`` arms it for the next request that contains some bytes."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._wanted: tuple[bytes, Loss] | None = None
        self.lost = asyncio.Event()
        """Set once the reply of the wanted request has come and was thrown away."""
        self.url = ""

    def lose(self, request_part: bytes, loss: Loss) -> None:
        """Throw away the reply of the next request with these bytes; then cut the connection, or keep silent."""
        self._wanted = (request_part, loss)
        self.lost.clear()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(self._host, self._port)
        loss: list[Loss] = []

        async def up() -> None:
            while data := await reader.read(CHUNK):
                if self._wanted is not None and self._wanted[0] in data:
                    loss.append(self._wanted[1])
                    self._wanted = None
                up_writer.write(data)
                await up_writer.drain()

        async def down() -> None:
            while data := await up_reader.read(CHUNK):
                if loss:
                    self.lost.set()
                    if loss[0] == "cut":
                        return
                    continue
                writer.write(data)
                await writer.drain()

        tasks = [asyncio.create_task(up()), asyncio.create_task(down())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for each in (writer, up_writer):
                each.close()
                with suppress(OSError):
                    await each.wait_closed()


@asynccontextmanager
async def open_proxy(redis_url: str) -> AsyncIterator[Proxy]:
    """A proxy in front of a Redis; its ``url`` is for the server."""
    target = urlsplit(redis_url)
    proxy = Proxy(target.hostname or "127.0.0.1", target.port or 6379)
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.handle(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    listener = await asyncio.start_server(connected, "127.0.0.1", 0)
    proxy.url = f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}/0"
    try:
        yield proxy
    finally:
        listener.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
