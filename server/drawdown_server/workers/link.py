"""What a worker and its supervisor tell each other, over a pair of sockets: single bytes, and its end.

=========  =======================  ==============================================================================
byte       from                     means
=========  =======================  ==============================================================================
``r``      the worker               it serves
``.``      the worker               its event loop is alive; every ``BEAT_S``
``e``      the supervisor           end, as after SIGTERM
``x``      the supervisor           another worker has taken its place: leave, the port is served on
the end    the supervisor           the supervisor is gone: end as after SIGTERM
=========  =======================  ==============================================================================
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

READY: Final = b"r"
ALIVE: Final = b"."
END: Final = b"e"
REPLACED: Final = b"x"
BEAT_S: Final = 1.0
"""Between two signs of life."""


class WorkerLink:
    """The worker's end, inside ``async with``.

    Args:
        descriptor: Of the socket, inherited from the supervisor.
        stop: Set when the worker shall end.
    """

    def __init__(self, descriptor: int, stop: asyncio.Event) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.settimeout(0)
        self._stop = stop
        self._tasks: list[asyncio.Task[None]] = []
        self.is_replaced = False
        """Another worker has taken this one's place."""

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._beat(), name="beat"), asyncio.create_task(self._hear(), name="link")]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._socket.close()

    def say_ready(self) -> None:
        """Tell the supervisor that this worker serves."""
        self._say(READY)

    def _say(self, byte: bytes) -> None:
        # A supervisor that does not read, or is gone, is no reason to wait or to fail: its end is heard elsewhere.
        with suppress(OSError):
            self._socket.send(byte)

    async def _beat(self) -> None:
        while True:
            self._say(ALIVE)
            await asyncio.sleep(BEAT_S)

    async def _hear(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self.is_replaced = await loop.sock_recv(self._socket, 1) == REPLACED
        except OSError:
            self.is_replaced = False
        self._stop.set()
