"""TLS in front of a store that has none: the embedded Valkey and Postgres are built without it."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

POSTGRES_SSL_REQUEST: Final = bytes.fromhex("0000000804d2162f")
"""What a Postgres client that wants TLS sends first; the answer is one byte, then the handshake begins."""


def server_context(certificate: Path, key: Path, client_ca: Path | None = None) -> ssl.SSLContext:
    """Of a server that demands certificates if it is told by whom they are to be signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@asynccontextmanager
async def tls_proxy(port: int, context: ssl.SSLContext, *, is_postgres: bool = False) -> AsyncIterator[int]:
    """A port that speaks TLS and hands everything on to another one in plain text."""
    going_on: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        going_on.add(task)
        with suppress(OSError, asyncio.IncompleteReadError):  # ssl.SSLError is an OSError
            if is_postgres:
                if await reader.readexactly(len(POSTGRES_SSL_REQUEST)) != POSTGRES_SSL_REQUEST:
                    raise ConnectionAbortedError("plain text")
                writer.write(b"S")
                await writer.start_tls(context)
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(_copy(reader, there_writer), _copy(there_reader, writer))
        writer.close()
        going_on.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=None if is_postgres else context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(going_on):
            task.cancel()
        await asyncio.gather(*going_on, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()
