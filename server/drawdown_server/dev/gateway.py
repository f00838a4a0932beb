"""A gateway that carries out a plan through the public client, and keeps what it was told.

What the server acknowledged is the truth that the books are later held against (``audit.py``): it is noted only from
answers, never from what was sent. A call that gets no answer is sent again with the same ids, as a gateway must, so
a run can go on while servers are killed and started again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import drawdown
from drawdown_server.dev.plan import ASSETS, Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

    from drawdown_server.dev.plan import Plan, PlannedGrant, PlannedRequest

Result = TypeVar("Result")

CONCURRENCY_DEFAULT: Final = 64
PATIENCE_S: Final = 30.0
"""How long one call is sent again and again before the run gives up: a restart takes a few seconds."""
RETRY_PAUSE_S: Final = 0.05
ABANDONED_TTL_S: Final = 2.0
"""Of holds that nobody will settle; the others have the server's default, minutes longer than any run."""
FIRST_CALLS_MAX: Final = 1
"""Of equal calls, at most one can have been the first; with an answer lost on the way, we see none."""


class UnansweredError(Exception):
    """A call got no answer for so long that the run was given up."""


@dataclass(frozen=True, slots=True)
class Committed:
    """An acknowledged Commit."""

    wallet_id: str
    units: Mapping[str, int]
    """Debited, by asset."""
    wallet_sequence: int


@dataclass(slots=True)
class Acknowledged:
    """What the server has told the gateway."""

    granted: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Units by (wallet_id, asset)."""
    changes: Counter[str] = field(default_factory=Counter)
    """Grants and changes of state by wallet_id: each is one event of the ledger, as each Commit is."""
    approved: dict[str, PlannedRequest] = field(default_factory=dict)
    """By hold_id, like the next three."""
    committed: dict[str, Committed] = field(default_factory=dict)
    released: dict[str, PlannedRequest] = field(default_factory=dict)
    abandoned: dict[str, PlannedRequest] = field(default_factory=dict)
    denied: Counter[str] = field(default_factory=Counter)
    """Requests by reason."""
    wrong: list[str] = field(default_factory=list)
    """Answers that contradict the contract, in words."""
    authorize_s: list[float] = field(default_factory=list)
    """Latency of each request's first Authorize."""
    sent_again: int = 0
    """Calls repeated because no answer came."""

    @property
    def requests(self) -> int:
        """Requests that were decided."""
        return len(self.approved) + self.denied.total()


class Gateway:
    """Carries out a plan.

    Args:
        client: Connected to the server; the gateway does not close it.
        plan: What to do.
        concurrency: Requests in flight.
        patience_s: How long a call without an answer is sent again.
    """

    def __init__(
        self,
        client: drawdown.AsyncClient,
        plan: Plan,
        *,
        concurrency: int = CONCURRENCY_DEFAULT,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.acknowledged = Acknowledged()
        self._client = client
        self._plan = plan
        self._concurrency = concurrency
        self._patience_s = patience_s

    async def prepare(self) -> None:
        """Make the assets, the wallets and their grants.

        Raises:
            UnansweredError: The server is gone.
        """
        for asset, scale in ASSETS.items():
            await self._answer(partial(self._client.create_asset, asset=asset, scale=scale))
        grants: dict[str, list[PlannedGrant]] = {wallet_id: [] for wallet_id in self._plan.wallets}
        for grant in self._plan.grants:
            grants[grant.wallet_id].append(grant)
        await self._all(self._open_wallet(wallet_id, own) for wallet_id, own in grants.items())

    async def run(self, on_done: Callable[[], None] = lambda: None) -> Acknowledged:
        """Send every request of the plan.

        Args:
            on_done: Called after each request.

        Returns:
            What was acknowledged; ``acknowledged`` has it meanwhile.

        Raises:
            UnansweredError: The server is gone.
        """
        await self._all(self._serve(request, on_done) for request in self._plan.requests)
        return self.acknowledged

    async def _all(self, jobs: Iterable[Awaitable[None]]) -> None:
        """Do all jobs, so many at a time; the first failure ends the others."""
        queue: Iterator[Awaitable[None]] = iter(jobs)

        async def work() -> None:
            for job in queue:
                await job

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(self._concurrency):
                    workers.create_task(work())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _open_wallet(self, wallet_id: str, grants: list[PlannedGrant]) -> None:
        known = self.acknowledged
        await self._answer(lambda: self._client.create_wallet(wallet_id=wallet_id))
        for grant in grants:
            await self._answer(
                partial(
                    self._client.create_grant,
                    wallet_id=wallet_id,
                    grant_id=grant.grant_id,
                    asset=grant.asset,
                    units=grant.units,
                    source=grant.source,
                )
            )
            known.granted[wallet_id, grant.asset] += grant.units
            known.changes[wallet_id] += 1
        if wallet_id in self._plan.frozen:
            await self._answer(lambda: self._client.freeze_wallet(wallet_id=wallet_id, reason="demo"))
            known.changes[wallet_id] += 1

    async def _serve(self, request: PlannedRequest, on_done: Callable[[], None]) -> None:
        """One request from its Authorize to its end. An error is noted: the contract has none for what we do."""
        try:
            hold = await self._authorize(request)
            if hold is not None:
                match request.outcome:
                    case Outcome.COMMIT:
                        await self._commit(request, hold.hold_token)
                    case Outcome.RELEASE:
                        await self._release(request)
                    case Outcome.ABANDON:
                        self.acknowledged.abandoned[request.hold_id] = request
        except drawdown.DrawdownError as error:
            self._note(request, f"failed: {error.code.name} {error.message}")
        on_done()

    async def _authorize(self, request: PlannedRequest) -> drawdown.Hold | None:
        started = time.perf_counter()
        answer = await self._answer(lambda: self._send_authorize(request))
        self.acknowledged.authorize_s.append(time.perf_counter() - started)
        self._check_balances(request, answer.balances)
        if answer.approved:
            self._check_hold(request, answer)
            self.acknowledged.approved[request.hold_id] = request
            if request.is_sent_twice and request.outcome is not Outcome.ABANDON:
                again = await self._answer(lambda: self._send_authorize(request))
                if not (again.approved and again.replayed and again.hold == answer.hold):
                    self._note(request, f"approved, and sent again it was {again.decision}, replayed: {again.replayed}")
            return answer.hold
        reason = answer.denial.reason.value if answer.denial is not None else "no reason given"
        self.acknowledged.denied[reason] += 1
        return None

    def _send_authorize(self, request: PlannedRequest) -> Awaitable[drawdown.Authorization]:
        return self._client.authorize(
            wallet_id=request.wallet_id,
            hold_id=request.hold_id,
            amounts=request.worst_units,
            ttl_s=ABANDONED_TTL_S if request.outcome is Outcome.ABANDON else None,
        )

    async def _commit(self, request: PlannedRequest, hold_token: bytes) -> None:
        def send() -> Awaitable[drawdown.CommitResult]:
            return self._answer(
                lambda: self._client.commit(
                    wallet_id=request.wallet_id,
                    hold_id=request.hold_id,
                    amounts=request.used_units,
                    hold_token=hold_token,
                )
            )

        # A gateway that lost the answer may send again while the first call still runs.
        answers = await asyncio.gather(*(send() for _ in range(1 + request.is_sent_twice)))
        if sum(not answer.replayed for answer in answers) > FIRST_CALLS_MAX:
            self._note(request, "committed twice: neither answer was a replay")
        for answer in answers:
            self._check_balances(request, answer.balances)
            if answer.debited != request.used_units or answer.late or any(answer.uncollected.values()):
                self._note(request, f"committed {request.used_units}, debited {answer.debited}, late: {answer.late}")
            if answer.wallet_sequence != answers[0].wallet_sequence:
                self._note(request, "one Commit was acknowledged as two events")
        self.acknowledged.committed[request.hold_id] = Committed(
            request.wallet_id, answers[0].debited, answers[0].wallet_sequence
        )

    async def _release(self, request: PlannedRequest) -> None:
        answer = await self._answer(
            lambda: self._client.release(wallet_id=request.wallet_id, hold_id=request.hold_id, reason="model failed")
        )
        self._check_balances(request, answer.balances)
        if answer.hold.state is not drawdown.HoldState.RELEASED:
            self._note(request, f"released, and is {answer.hold.state}")
        self.acknowledged.released[request.hold_id] = request

    async def _answer(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """Send the same call until there is an answer."""
        give_up = time.monotonic() + self._patience_s
        while True:
            try:
                return await call()
            except (drawdown.UnavailableError, drawdown.DeadlineExceededError) as error:
                if time.monotonic() >= give_up:
                    raise UnansweredError(f"no answer within {self._patience_s:g} s: {error.message}") from error
                self.acknowledged.sent_again += 1
                await asyncio.sleep(RETRY_PAUSE_S)

    def _check_hold(self, request: PlannedRequest, answer: drawdown.Authorization) -> None:
        held = {asset: amount.authorized_units for asset, amount in answer.hold.amounts.items()} if answer.hold else {}
        if held != request.worst_units:
            self._note(request, f"authorized {request.worst_units}, the hold has {held}")

    def _check_balances(self, request: PlannedRequest, balances: Mapping[str, drawdown.Balance]) -> None:
        for asset, b in balances.items():
            if b.available_units + b.held_units != b.settled_units + b.overdraft_limit_units or b.available_units < 0:
                self._note(
                    request,
                    f"was answered with {asset} available {b.available_units} + held {b.held_units}, "
                    f"settled {b.settled_units}",
                )

    def _note(self, request: PlannedRequest, what: str) -> None:
        self.acknowledged.wrong.append(f"wallet {request.wallet_id}, hold {request.hold_id}: {what}")
