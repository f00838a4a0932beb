"""One worker as its supervisor sees it: a process, and the other end of its link."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from drawdown_server.workers.link import END, READY, REPLACED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Worker:
    """One process; ``start`` makes it.

    Args:
        index: Its place among the workers, from 0.
        process: Started.
        link: The supervisor's end.
    """

    def __init__(self, index: int, process: asyncio.subprocess.Process, link: socket.socket) -> None:
        self.index = index
        self.pid = process.pid
        self._process = process
        self._link = link
        self.is_ready = False
        self.silent_beats = 0
        """Beats of the supervisor since the last sign of life."""
        self._has_spoken = False
        self._hearing = asyncio.create_task(self._hear(), name=f"link of worker {index}")
        self._ready = asyncio.Event()
        self.ended = asyncio.create_task(self._end(), name=f"worker {index}")
        """Its exit code, once it has ended; 0 also when SIGTERM ended it before it served."""

    @classmethod
    async def start(cls, index: int, command: Callable[[int, int], Sequence[str]]) -> Worker:
        """Start the process.

        Args:
            index: Its place among the workers.
            command: The command line for a place and the descriptor of the link.

        Raises:
            OSError: The machine has no room for another process.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            ours.settimeout(0)
            try:
                process = await asyncio.create_subprocess_exec(
                    *command(index, theirs.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    # A Ctrl-C goes to everybody in the terminal's group: workers shall hear of it from us, once.
                    process_group=0,
                )
            except BaseException:
                ours.close()
                raise
        return cls(index, process, ours)

    def has_spoken(self) -> bool:
        """It has given a sign of life."""
        return self._has_spoken

    async def ready(self) -> bool:
        """Wait until it serves; False when it ended before."""
        waiting = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait({waiting, self.ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        return self.is_ready and not self.ended.done()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if not self.ended.done():
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    def end(self) -> None:
        """Tell it to drain and end; one that does not serve yet has nothing to drain.

        Not by a signal: a service manager may have sent one to it as well, or it drains already because another worker
        has taken its place, and the second signal ends a worker at once.
        """
        if self.is_ready:
            self._tell(END)
        else:
            self.send(signal.SIGTERM)

    def replace(self) -> None:
        """Tell it that another worker has taken its place."""
        self._tell(REPLACED)

    def _tell(self, byte: bytes) -> None:
        with suppress(OSError):
            self._link.send(byte)

    async def _hear(self) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while data := await loop.sock_recv(self._link, 64):
                self._has_spoken = True
                self.silent_beats = 0
                if READY in data:
                    self.is_ready = True
                    self._ready.set()

    async def _end(self) -> int:
        code = await self._process.wait()
        self._hearing.cancel()
        await asyncio.gather(self._hearing, return_exceptions=True)
        self._link.close()
        if code == -signal.SIGTERM and not self.is_ready:
            return 0
        return code
