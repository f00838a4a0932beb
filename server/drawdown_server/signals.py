"""The event that ends a process: SIGTERM and SIGINT set it, what runs in the background waits for it."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress


class stop_on_signals:  # noqa: N801  # reads as a verb, like contextlib's own
    """Set an event on SIGTERM or SIGINT inside the block. A second signal has its usual, immediate effect."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    def _on_signal(self, number: int) -> None:
        self._stop.set()
        asyncio.get_running_loop().remove_signal_handler(number)


async def stopped(stop: asyncio.Event, delay_s: float) -> bool:
    """Wait so many seconds, but not past the stop; whether it has come."""
    if delay_s > 0:
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await stop.wait()
    return stop.is_set()
