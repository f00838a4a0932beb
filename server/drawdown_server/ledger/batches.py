"""Reads that are asked for one by one and made many at a time: what comes while others are under way shares a round."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

_K = TypeVar("_K")
_V = TypeVar("_V")

KEYS_MAX: Final = 64
"""Keys per round: a round of 64 wallets takes about as long as three single ones."""
ROUNDS_AT_ONCE: Final = 2
"""One is answered by Postgres while the other is decoded here; more connections are left to the others."""


class Batches(Generic[_K, _V]):
    """Reads by key.

    Args:
        read_many: One round; keys that it does not answer are read as None.
    """

    def __init__(self, read_many: Callable[[Sequence[_K]], Awaitable[Mapping[_K, _V]]]) -> None:
        self._read_many = read_many
        self._waiting: list[tuple[_K, asyncio.Future[_V | None]]] = []
        self._rounds: set[asyncio.Task[None]] = set()
        self.rounds_total = 0
        """Rounds made."""

    async def read(self, key: _K) -> _V | None:
        """Read one key. The read begins after this call, never before. Raises what the round raised."""
        future: asyncio.Future[_V | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, future))
        if len(self._rounds) < ROUNDS_AT_ONCE:
            task = asyncio.create_task(self._work(), name="read-batches")
            self._rounds.add(task)
            task.add_done_callback(self._rounds.discard)
        return await future

    async def _work(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:KEYS_MAX], self._waiting[KEYS_MAX:]
            await self._round([(key, future) for key, future in batch if not future.done()])

    async def _round(self, batch: list[tuple[_K, asyncio.Future[_V | None]]]) -> None:
        if not batch:
            return
        self.rounds_total += 1
        try:
            found = await self._read_many([key for key, _ in batch])
        except Exception as error:  # whatever it is, it is an answer to those who wait
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for key, future in batch:
            if not future.done():  # else the caller gave up
                future.set_result(found.get(key))
