"""Sessions for the client for threads: they live in an event loop of their own."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Final, TypeVar

from google.protobuf.message import Message

from drawdown._channel import CLOSED
from drawdown._connections import Connections
from drawdown._sessions import Sessions

if TYPE_CHECKING:
    from drawdown._channel import Settings
    from drawdown._rpcs import Operation, Rpc

Request = TypeVar("Request", bound=Message)
Result = TypeVar("Result")

FORKED: Final = "this client was made before a fork; make a new one in each process"


class SessionThread:
    """What ``Sessions`` is for asyncio.

    Args:
        settings: Of the client.

    Raises:
        Exception: What opening a channel raised.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="drawdown-sessions", daemon=True)
        self._thread.start()
        try:
            self._sessions = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        except BaseException:
            self._stop()
            raise

    def perform(
        self, rpc: Rpc[Request, Result], operation: Operation[Request, Result], request: Request, timeout_s: float
    ) -> Result:
        """As ``Sessions.perform``; the calling thread waits."""
        with self._lock:  # what is handed over before the end is answered
            if self._is_closed:
                raise RuntimeError(CLOSED)
            if not self._thread.is_alive():
                raise RuntimeError(FORKED)
            call = asyncio.run_coroutine_threadsafe(self._perform(rpc, operation, request, timeout_s), self._loop)
        try:
            return call.result()
        except BaseException:
            call.cancel()  # when it is the waiting that was interrupted
            raise

    def close(self) -> None:
        """End them; calls in flight fail."""
        with self._lock:
            self._is_closed = True
        if not self._thread.is_alive():
            return  # of the process that this one was forked from
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._stop()

    async def _open(self) -> Sessions:
        self._connections = Connections(self._settings)
        return Sessions(self._settings, self._connections)

    async def _perform(
        self, rpc: Rpc[Request, Result], operation: Operation[Request, Result], request: Request, timeout_s: float
    ) -> Result:
        return await self._sessions.perform(rpc, operation, request, timeout_s)

    async def _end(self) -> None:
        await self._sessions.close()
        await self._connections.close()
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        if calls:
            await asyncio.wait(calls)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
