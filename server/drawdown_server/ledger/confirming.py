"""Tells callers when the ledger has their event: one task per process, which asks Postgres only while somebody waits.

One query asks for all that are waited for. It is asked again as soon as the flusher of this process has recorded
something, and every ``POLL_S`` in case it is another process that records. Nothing is remembered: whoever asks again,
here or elsewhere, is told the same.

An event is in the ledger when the record of its hold says so (``settled_holds.first_sequence``, ``hold_events``). The
wallet's ``sequence`` alone does not: it also moves on past events that became dead letters. But once it has passed an
event that is not there, that event never will be, so nobody waits for it any longer.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from drawdown_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    class Ledger(Protocol):
        """What it needs of the ledger."""

        async def find_events(self, events: Sequence[HoldEvent]) -> list[bool | None]:
            """Whether each is recorded; None while that is not decided."""


POLL_S: Final = 0.01
"""Between two queries when nobody says that something was recorded: about as long as a flush takes."""
PAUSE_S: Final = 0.2
"""After Postgres did not answer."""
WAITERS_MAX: Final = 2_000
"""One query asks for all of them. Whoever comes on top is answered at once that it is not known."""
LAST_WAIT_S: Final = 1.0
"""How long callers still wait when the server ends: the flusher works on, but not for ever."""

_log = structlog.get_logger(__name__)


class HoldEvent(NamedTuple):
    """An event of a hold."""

    tenant_id: str
    wallet_id: str
    hold_id: str
    wallet_sequence: int


class Confirmations:
    """Waits until events are in the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: dict[HoldEvent, set[asyncio.Future[bool]]] = {}
        self._waiters = 0
        self._asking: asyncio.Task[None] | None = None
        self._recorded = asyncio.Event()
        self._is_ending = False

    def recorded(self) -> None:
        """This process has recorded something: ask now."""
        self._recorded.set()

    async def confirmed(self, event: HoldEvent, timeout_s: float) -> bool:
        """Whether the event is in the ledger, at the latest after ``timeout_s``.

        False: not yet, never (it is a dead letter), or nobody can tell.
        """
        if self._is_ending:
            timeout_s = min(timeout_s, LAST_WAIT_S)
        if timeout_s <= 0 or self._waiters >= WAITERS_MAX:
            return False
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(event, set()).add(answer)
        self._waiters += 1
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="confirmations")
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            return False
        finally:
            self._waiters -= 1
            self._leave(event, answer)

    def end(self) -> None:
        """The server ends: nobody waits for longer than ``LAST_WAIT_S`` from now on."""
        self._is_ending = True
        asyncio.get_running_loop().call_later(LAST_WAIT_S, self._give_up)

    async def aclose(self) -> None:
        """Answer whoever still waits, and let the last query finish."""
        self._give_up()
        if self._asking is not None:
            self._recorded.set()
            await self._asking

    async def _ask(self) -> None:
        """Ask until nobody waits."""
        try:
            while self._waiting:
                self._recorded.clear()
                pause_s = POLL_S if await self._ask_once() else PAUSE_S
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._recorded.wait()
        except Exception:
            _log.exception("confirmations_failed")
            self._give_up()

    async def _ask_once(self) -> bool:
        """One query, and the answers that it decides. False when Postgres did not answer."""
        events = list(self._waiting)
        try:
            found = await self._ledger.find_events(events)
        except StoreUnavailableError:
            return False
        for event, is_recorded in zip(events, found, strict=True):
            if is_recorded is not None:
                self._tell(event, is_recorded=is_recorded)
        return True

    def _tell(self, event: HoldEvent, *, is_recorded: bool) -> None:
        for answer in self._waiting.pop(event, ()):
            if not answer.done():
                answer.set_result(is_recorded)

    def _give_up(self) -> None:
        for event in list(self._waiting):
            self._tell(event, is_recorded=False)

    def _leave(self, event: HoldEvent, answer: asyncio.Future[bool]) -> None:
        """A caller that was answered, or waits no longer."""
        answers = self._waiting.get(event)
        if answers is not None:
            answers.discard(answer)
            if not answers:
                del self._waiting[event]
