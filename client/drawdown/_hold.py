"""A hold around a piece of work, for ``async with`` and for ``with``.

What leaving does is decided by one question: was a commit tried? If not, nothing is owed and the hold is released. If
so, the work was done: also when the commit failed or its outcome is unknown the hold is kept, because after a release
the same commit could never succeed. Such a hold lasts until its ttl, and even later a commit is still charged. A
progress report that succeeded (``final=False``) has charged what was used so far: leaving then releases the rest.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Self

from drawdown._channel import USE_CLIENT_DEFAULT, Timeout
from drawdown._exceptions import Denied, DrawdownError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from drawdown._client import AsyncClient
    from drawdown._sync import Client
    from drawdown._types import Amounts, Authorization, CommitResult, Extension, Hold, ReleaseResult

log = logging.getLogger("drawdown")

_REASON_LEFT: Final = "left without a commit"
_REASON_CANCELLED: Final = "cancelled while authorizing"


class _HoldState:
    """What both contexts know about their hold."""

    def __init__(self, wallet_id: str, hold_id: str) -> None:
        self.wallet_id = wallet_id
        self.hold_id = hold_id
        self._authorization: Authorization | None = None
        self._hold: Hold | None = None
        self._hold_token = b""
        self._commit_tried = False
        self._settled = False

    @property
    def authorization(self) -> Authorization:
        """The answer of Authorize."""
        if self._authorization is None:
            raise RuntimeError("nothing is authorized yet: enter the context first")
        return self._authorization

    @property
    def hold(self) -> Hold:
        """The hold, as the last answer showed it."""
        if self._hold is None:
            raise RuntimeError("nothing is held yet: enter the context first")
        return self._hold

    def _check_entered(self) -> None:
        if self._hold is None:
            raise RuntimeError("nothing is held yet: enter the context first")

    def _entered(self, authorization: Authorization) -> None:
        self._authorization = authorization
        if not authorization.approved:
            raise Denied(authorization)
        self._shown(authorization.hold)

    def _shown(self, hold: Hold | None) -> None:
        self._hold = hold
        if hold is not None and hold.hold_token:  # a denied raise, or a commit, answers none: the last one stays good
            self._hold_token = hold.hold_token

    def _check_not_entered(self) -> None:
        if self._authorization is not None:
            raise RuntimeError("a hold context is entered once; call client.hold() again")

    def _settled_as(self, hold: Hold, *, final: bool = True) -> None:
        self._shown(hold)
        self._settled = final
        # A progress report that arrived has charged what was owed so far; the rest may be given back.
        self._commit_tried = final

    def _owes_release(self) -> bool:
        if self._commit_tried and not self._settled:
            log.warning("hold %s of wallet %s was not committed; it stays until its ttl", self.hold_id, self.wallet_id)
        return not self._settled and not self._commit_tried

    def _release_failed(self, error: Exception) -> None:
        # Not raised: it would hide what the body raised, and the ttl frees the hold anyway.
        log.warning("hold %s of wallet %s was not released, its ttl will: %s", self.hold_id, self.wallet_id, error)


class AsyncHoldContext(_HoldState):
    """Made by ``AsyncClient.hold``; use it with ``async with``."""

    def __init__(
        self,
        client: AsyncClient,
        authorize: Callable[[], Awaitable[Authorization]],
        wallet_id: str,
        hold_id: str,
        *,
        hold_id_given: bool,
        background: set[asyncio.Task[None]],
    ) -> None:
        super().__init__(wallet_id, hold_id)
        self._client = client
        self._authorize = authorize
        self._hold_id_given = hold_id_given
        self._background = background

    async def __aenter__(self) -> Self:
        self._check_not_entered()
        try:
            authorization = await self._authorize()
        except asyncio.CancelledError:
            # The server may have held the units all the same. Nobody else knows a generated id, so nobody can want
            # it any more; a given one may be sent again by its owner.
            if not self._hold_id_given:
                self._release_in_background(_REASON_CANCELLED)
            raise
        self._entered(authorization)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._owes_release():
            # Shielded: a cancelled request must still give its units back. If the wait itself is cancelled, the
            # release goes on in the background and close() waits for it.
            await asyncio.shield(self._release_in_background(_REASON_LEFT))

    async def commit(
        self,
        amounts: Amounts,
        *,
        final: bool = True,
        wait_for_ledger_s: float | None = None,
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> CommitResult:
        """Debits the total units used so far; when final, gives the rest back. May be called again after a failure."""
        self._check_entered()
        self._commit_tried = True
        result = await self._client.commit(
            wallet_id=self.wallet_id,
            hold_id=self.hold_id,
            amounts=amounts,
            final=final,
            hold_token=self._hold_token,
            wait_for_ledger_s=wait_for_ledger_s,
            timeout_s=timeout_s,
        )
        self._settled_as(result.hold, final=final)
        return result

    async def extend(
        self, *, ttl_s: float | None = None, amounts: Amounts = (), timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> Extension:
        """Keeps the hold for longer, holds more, or both; a denied raise leaves it as it was and raises nothing."""
        result = await self._client.extend(
            wallet_id=self.wallet_id, hold_id=self.hold_id, ttl_s=ttl_s, amounts=amounts, timeout_s=timeout_s
        )
        self._shown(result.hold)
        return result

    async def release(self, reason: str = "", *, timeout_s: Timeout = USE_CLIENT_DEFAULT) -> ReleaseResult:
        """Gives everything back now instead of on leaving; unlike leaving, raises when that fails."""
        result = await self._client.release(
            wallet_id=self.wallet_id, hold_id=self.hold_id, reason=reason, timeout_s=timeout_s
        )
        self._settled_as(result.hold)
        return result

    def _release_in_background(self, reason: str) -> asyncio.Task[None]:
        task = asyncio.create_task(self._release_quietly(reason))
        self._background.add(task)  # the loop itself keeps only a weak reference
        task.add_done_callback(self._background.discard)
        return task

    async def _release_quietly(self, reason: str) -> None:
        try:
            await self._client.release(wallet_id=self.wallet_id, hold_id=self.hold_id, reason=reason)
        except (DrawdownError, RuntimeError) as error:  # RuntimeError: the client was closed inside the body
            self._release_failed(error)


class HoldContext(_HoldState):
    """Made by ``Client.hold``; use it with ``with``."""

    def __init__(self, client: Client, authorize: Callable[[], Authorization], wallet_id: str, hold_id: str) -> None:
        super().__init__(wallet_id, hold_id)
        self._client = client
        self._authorize = authorize

    def __enter__(self) -> Self:
        self._check_not_entered()
        self._entered(self._authorize())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._owes_release():
            try:
                self._client.release(wallet_id=self.wallet_id, hold_id=self.hold_id, reason=_REASON_LEFT)
            except (DrawdownError, RuntimeError) as failure:  # RuntimeError: the client was closed inside the body
                self._release_failed(failure)

    def commit(
        self,
        amounts: Amounts,
        *,
        final: bool = True,
        wait_for_ledger_s: float | None = None,
        timeout_s: Timeout = USE_CLIENT_DEFAULT,
    ) -> CommitResult:
        """Debits the total units used so far; when final, gives the rest back. May be called again after a failure."""
        self._check_entered()
        self._commit_tried = True
        result = self._client.commit(
            wallet_id=self.wallet_id,
            hold_id=self.hold_id,
            amounts=amounts,
            final=final,
            hold_token=self._hold_token,
            wait_for_ledger_s=wait_for_ledger_s,
            timeout_s=timeout_s,
        )
        self._settled_as(result.hold, final=final)
        return result

    def extend(
        self, *, ttl_s: float | None = None, amounts: Amounts = (), timeout_s: Timeout = USE_CLIENT_DEFAULT
    ) -> Extension:
        """Keeps the hold for longer, holds more, or both; a denied raise leaves it as it was and raises nothing."""
        result = self._client.extend(
            wallet_id=self.wallet_id, hold_id=self.hold_id, ttl_s=ttl_s, amounts=amounts, timeout_s=timeout_s
        )
        self._shown(result.hold)
        return result

    def release(self, reason: str = "", *, timeout_s: Timeout = USE_CLIENT_DEFAULT) -> ReleaseResult:
        """Gives everything back now instead of on leaving; unlike leaving, raises when that fails."""
        result = self._client.release(
            wallet_id=self.wallet_id, hold_id=self.hold_id, reason=reason, timeout_s=timeout_s
        )
        self._settled_as(result.hold)
        return result
