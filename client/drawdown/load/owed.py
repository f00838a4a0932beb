"""What a process still owes its wallets: the end of every hold, and of every call whose outcome is unknown.

A run leaves nothing held, and knows in the end exactly what it has debited: a Commit or Charge that got no answer is
sent again with its id, which debits once.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import drawdown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from drawdown.load.recording import Recording

SETTLE_CONCURRENCY: Final = 64
PAUSE_S: Final = 0.1
"""Before a call that got no answer is sent again."""

OUTCOME_UNKNOWN: Final = (drawdown.UnavailableError, drawdown.DeadlineExceededError, drawdown.InternalError)
"""After every other error nothing has happened."""


@dataclass(slots=True)
class Owed:
    """How one hold has to end."""

    wallet_id: str
    used: Mapping[str, int] | None = None
    """What its Commit or Charge says, once that was to be sent; a hold before that is released."""
    hold_token: bytes = b""
    is_charge: bool = False


class OpenHolds:
    """Every hold that may be open: from before its Authorize is sent until its end was acknowledged.

    Args:
        client: Connected; not closed here.
        recording: Where the end of each is noted.
        patience_s: How long calls without an answer are sent again at the end.
    """

    def __init__(self, client: drawdown.AsyncClient, recording: Recording, patience_s: float) -> None:
        self.recording = recording
        self._client = client
        self._patience_s = patience_s
        self._owed: dict[str, Owed] = {}

    def __len__(self) -> int:
        return len(self._owed)

    def add(self, hold_id: str, wallet_id: str) -> Owed:
        """Notes a hold before anything is sent."""
        owed = self._owed[hold_id] = Owed(wallet_id)
        return owed

    def add_charge(self, charge_id: str, wallet_id: str, used: Mapping[str, int]) -> None:
        """Notes a Charge that got no answer."""
        self._owed[charge_id] = Owed(wallet_id, used, is_charge=True)

    def remove(self, hold_id: str) -> None:
        """Notes that it ended, or never was."""
        self._owed.pop(hold_id, None)

    async def settle(self) -> None:
        """Ends all of them; what fails for good is counted in the recording."""
        deadline = time.monotonic() + self._patience_s
        todo = iter(list(self._owed.items()))

        async def work() -> None:
            for hold_id, owed in todo:
                await self._end(hold_id, owed, deadline)

        await asyncio.gather(*(work() for _ in range(SETTLE_CONCURRENCY)))

    async def _end(self, hold_id: str, owed: Owed, deadline: float) -> None:
        while True:
            try:
                await self._send(hold_id, owed)
            except drawdown.DrawdownError as error:
                if isinstance(error, (*OUTCOME_UNKNOWN, drawdown.RateLimitedError)) and time.monotonic() < deadline:
                    await asyncio.sleep(PAUSE_S)
                elif owed.used is not None and not owed.is_charge and not isinstance(error, OUTCOME_UNKNOWN):
                    owed.used = None  # it cannot be committed; then at least nothing stays held
                else:
                    self.recording.unsettled[f"{error.code.name} {error.reason}".strip()] += 1
                    return
            else:
                self.remove(hold_id)
                return

    async def _send(self, hold_id: str, owed: Owed) -> None:
        client, wallet_id = self._client, owed.wallet_id
        if owed.used is None:
            await client.release(wallet_id=wallet_id, hold_id=hold_id, reason="end of a load test")
            self.recording.released_at_end += 1
            return
        self.recording.sent_again += 1
        answer: drawdown.ChargeResult | drawdown.CommitResult
        if owed.is_charge:
            answer = await client.charge(wallet_id=wallet_id, charge_id=hold_id, amounts=owed.used)
        else:
            answer = await client.commit(
                wallet_id=wallet_id, hold_id=hold_id, amounts=owed.used, hold_token=owed.hold_token
            )
        self.recording.debited.update(answer.debited)
