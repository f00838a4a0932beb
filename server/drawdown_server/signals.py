"""SIGTERM and SIGINT as an event."""

from __future__ import annotations

import asyncio
import signal


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
