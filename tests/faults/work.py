"""A client at work with its own retries, and nothing else to help it: what it is told is what must be true."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from integration.server import until

if TYPE_CHECKING:
    import drawdown

TASKS: Final = 6


class Work:
    """A client that uses every hold it gets, and keeps what it was told.

    Args:
        client: Open.
        wallet: With plenty of USD.
        tasks: Calls in flight.
    """

    def __init__(self, client: drawdown.AsyncClient, wallet: str, tasks: int = TASKS) -> None:
        self._client = client
        self._wallet = wallet
        self._tasks = tasks
        self.stop = asyncio.Event()
        self.debited = 0
        self.calls = 0
        self.failures: list[BaseException] = []

    async def run(self) -> None:
        await asyncio.gather(*(self._work(number) for number in range(self._tasks)))

    async def _work(self, task: int) -> None:
        number = 0
        while not self.stop.is_set():
            number += 1
            hold_id = f"h{task}-{number}"
            try:
                names = {"wallet_id": self._wallet, "hold_id": hold_id}
                await self._client.authorize(**names, amounts={"USD": 3}, ttl_s=600)
                await self._client.commit(**names, amounts={"USD": 2})
            except Exception as error:
                self.failures.append(error)
                return
            self.debited += 2
            self.calls += 2

    async def reaches(self, calls: int) -> None:
        """Wait for so many more calls."""
        goal = self.calls + calls

        async def reached() -> bool:
            return self.calls >= goal or bool(self.failures)

        await until(reached)
