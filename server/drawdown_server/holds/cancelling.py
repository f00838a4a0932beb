"""A task that uses redis-py can be cancelled, under Python 3.11 too.

redis-py writes commands inside ``asyncio.wait_for``, which before Python 3.12 forgets a cancellation that comes in the
very step in which the write is done. The task goes on as if nobody had ended it, and who waits for its end waits for
ever: a server that is told to stop just when it has found its Valkey again hung like this.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from redis.asyncio.connection import AbstractConnection

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redis.asyncio import ConnectionPool


class _Cancellable(AbstractConnection):
    """A connection that remembers what ``wait_for`` forgets."""

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        """redis-py's: write a packed command."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a coroutine that runs belongs to one
        cancellations = task.cancelling()
        await super().send_packed_command(command, check_health)
        if task.cancelling() > cancellations:
            await self.disconnect(nowait=True)  # the next command would be given the reply of this one
            raise asyncio.CancelledError


def make_cancellable(pool: ConnectionPool) -> None:
    """Let no connection that the pool makes from here on lose a cancellation."""
    made = pool.connection_class
    pool.connection_class = type(made.__name__, (_Cancellable, made), {})
