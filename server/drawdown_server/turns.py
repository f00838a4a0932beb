"""Operations of one wallet that came in one message: each is sent to the store before the next one begins.

What is sent on the one connection runs in that order, so the next need not wait for the answer of the one before it. An
operation that has to ask somebody first (the ledger, for an asset or a refund) keeps the others back until then.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

_Result = TypeVar("_Result")


class Turn:
    """The turn of one operation.

    Args:
        before: The turn of the operation before it; None: it is the first.
    """

    def __init__(self, before: Turn | None) -> None:
        self._before = None if before is None else before.passed_on
        self.passed_on: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def take(self) -> None:
        """Wait for the turn; then it is that of the current task."""
        if self._before is not None:
            await self._before
        _current.set(self)

    def pass_on(self) -> None:
        """The next one may begin. Doing it again changes nothing."""
        if not self.passed_on.done():
            self.passed_on.set_result(None)


_current: ContextVar[Turn | None] = ContextVar("turn", default=None)


def pass_on() -> None:
    """The work of the current task, if it has a turn, was sent to the store."""
    turn = _current.get()
    if turn is not None:
        turn.pass_on()


async def in_turn(turn: Turn | None, work: Coroutine[object, object, _Result]) -> _Result:
    """Do something in its turn, or at once when it has none."""
    if turn is None:
        return await work
    try:
        await turn.take()
        return await work
    finally:
        work.close()  # when the turn never came
        turn.pass_on()
