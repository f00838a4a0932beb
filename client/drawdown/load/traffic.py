"""The traffic of one process: its share of the requests, begun at their times, timed and counted.

A latency is from when a call was *due* to when its answer was read. An Authorize is due at its time in the schedule, so
that what waits behind a stalled server counts in full; a Commit is due when the customer's request is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from typing import TYPE_CHECKING, Final, TypeVar

import drawdown
from drawdown.load.mix import Flow
from drawdown.load.owed import OUTCOME_UNKNOWN, OpenHolds
from drawdown.load.plan import Loop, requests
from drawdown.load.recording import NS, Call, Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

    from drawdown.load.plan import Plan, Request
    from drawdown.load.recording import Recording

Answer = TypeVar("Answer")

HEARTBEAT_S: Final = 0.02
"""How often the generator looks whether its own timers fire in time."""
DRAIN_S: Final = 10.0
"""How long after its end a run still begins what was due before: a server that is this far behind does not keep up."""
ERROR_PAUSE_S: Final = 0.05
"""Of a gateway in a closed loop whose call failed: without it, refused connections become a busy loop."""


class Traffic:
    """One process's share of a run.

    Args:
        client: Connected; not closed here.
        plan: The run.
        process: Which share, 0 .. ``plan.processes`` - 1.
        recording: Where everything is noted; replaced by ``take``.
        stop: Ends the run early when it is set.
    """

    def __init__(
        self, client: drawdown.AsyncClient, plan: Plan, process: int, recording: Recording, stop: asyncio.Event
    ) -> None:
        self.recording = recording
        self.in_flight = 0
        """Requests that have begun and not ended."""
        self._client = client
        self._plan = plan
        self._process = process
        self._requests: Iterator[Request] = requests(plan, process)
        self._holds = OpenHolds(client, recording, plan.settle_s)
        self._zero_ns = recording.zero_ns
        self._end_ns = recording.zero_ns + round(plan.duration_s * NS)
        self._stop = stop
        self._tasks: set[asyncio.Task[bool]] = set()

    async def run(self) -> None:
        """Sends everything until the plan or ``stop`` ends it, and waits for the answers."""
        loop = self._open_loop if self._plan.loop is Loop.OPEN else self._closed_loop
        sending = asyncio.create_task(loop(), name="sending")
        heartbeat = asyncio.create_task(self._heartbeat(), name="heartbeat")
        stopping = asyncio.create_task(self._stop.wait(), name="stopping")
        await asyncio.wait([sending, stopping], return_when=asyncio.FIRST_COMPLETED)
        sending.cancel()
        stopping.cancel()
        await asyncio.wait([sending, stopping])
        if self._tasks:
            await asyncio.wait(self._tasks)  # each of their calls has its deadline
        heartbeat.cancel()
        await asyncio.wait([heartbeat])
        for task in (*self._tasks, sending, heartbeat):
            if not task.cancelled():
                task.result()  # a bug of ours must not look like a quiet server

    async def settle(self) -> None:
        """Ends every hold that is still open."""
        await self._holds.settle()

    def take(self) -> Recording:
        """What was noted since the last time."""
        taken = self.recording
        self.recording = self._holds.recording = taken.empty()
        return taken

    # --- when requests begin ---

    async def _open_loop(self) -> None:
        free = asyncio.Semaphore(max(1, self._plan.in_flight_max // self._plan.processes))
        for request in self._requests:
            due_ns = self._zero_ns + round(request.start_s * NS)
            if due_ns >= self._end_ns:
                return
            # Also when it is late: what was begun must have its turn before the next one is.
            await asyncio.sleep(max(0, due_ns - time.monotonic_ns()) / NS)
            could_ns, is_held_back = due_ns, free.locked()
            await free.acquire()
            if is_held_back:
                self.recording.held_back += due_ns >= self._zero_ns
                could_ns = max(due_ns, time.monotonic_ns())
            if could_ns > self._end_ns + DRAIN_S * NS:
                self.recording.unsent += 1
                self._count_unsent()
                return
            self._begin(request, due_ns, could_ns).add_done_callback(lambda _: free.release())

    def _count_unsent(self) -> None:
        for request in self._requests:
            if self._zero_ns + round(request.start_s * NS) >= self._end_ns:
                return
            self.recording.unsent += 1

    async def _closed_loop(self) -> None:
        shape = self._plan.shape
        if shape is None:
            raise ValueError("a closed loop needs a number of gateways")
        warm = shape.warmed_up(self._plan.warmup_s)
        begin_ns = self._zero_ns - round(self._plan.warmup_s * NS)

        async def gateway(number: int) -> None:
            while True:
                at_s = warm.next_above(number, max(0, time.monotonic_ns() - begin_ns) / NS)
                if at_s is None:
                    return
                wait_ns = begin_ns + round(at_s * NS) - time.monotonic_ns()
                if wait_ns > 0:
                    await asyncio.sleep(wait_ns / NS)
                request = next(self._requests, None)
                if request is None:
                    return
                # Shielded: when the run is stopped, the request still ends.
                now_ns = time.monotonic_ns()
                if not await asyncio.shield(self._begin(request, now_ns, now_ns)):
                    await asyncio.sleep(ERROR_PAUSE_S)

        numbers = range(self._process, math.ceil(warm.peak), self._plan.processes)
        async with asyncio.TaskGroup() as gateways:
            for number in numbers:
                gateways.create_task(gateway(number))

    def _begin(self, request: Request, due_ns: int, could_ns: int) -> asyncio.Task[bool]:
        task = asyncio.create_task(self._serve(request, due_ns, could_ns))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[bool]) -> None:
        if task.cancelled() or task.exception() is None:
            self._tasks.discard(task)  # one with a bug of ours is raised at the end

    async def _heartbeat(self) -> None:
        while True:
            due_ns = time.monotonic_ns() + round(HEARTBEAT_S * NS)
            await asyncio.sleep(HEARTBEAT_S)
            self.recording.loop_lag.add(time.monotonic_ns() - due_ns)

    # --- one request ---

    async def _serve(self, request: Request, due_ns: int, could_ns: int) -> bool:
        """Makes all calls of a request; whether each was answered.

        Args:
            request: What to do.
            due_ns: When it was to begin.
            could_ns: When it could have begun: later than that when there was no free place in flight.
        """
        self.recording.begin(due_ns, time.monotonic_ns() - could_ns)
        self.in_flight += 1
        try:
            match request.flow:
                case Flow.CHARGE:
                    return await self._charge(request, due_ns)
                case Flow.BALANCE:
                    call = self._client.get_balance(wallet_id=request.wallet_id)
                    return not isinstance(await self._timed(Call.GET_BALANCE, due_ns, call), drawdown.DrawdownError)
                case _:
                    return await self._hold(request, due_ns)
        finally:
            self.in_flight -= 1

    async def _charge(self, request: Request, due_ns: int) -> bool:
        charge_id = self._id_of(request)
        call = self._client.charge(wallet_id=request.wallet_id, charge_id=charge_id, amounts=request.used)
        answer = await self._timed(Call.CHARGE, due_ns, call)
        if isinstance(answer, drawdown.DrawdownError):
            if isinstance(answer, OUTCOME_UNKNOWN):
                self._holds.add_charge(charge_id, request.wallet_id, request.used)
            return False
        self.recording.debited.update(answer.debited)
        return True

    async def _hold(self, request: Request, due_ns: int) -> bool:
        hold_id, wallet_id = self._id_of(request), request.wallet_id
        owed = self._holds.add(hold_id, wallet_id)
        call = self._client.authorize(
            wallet_id=wallet_id, hold_id=hold_id, amounts=request.held, ttl_s=self._plan.ttl_s
        )
        authorization = await self._timed(Call.AUTHORIZE, due_ns, call)
        if isinstance(authorization, drawdown.DrawdownError):
            if not isinstance(authorization, OUTCOME_UNKNOWN):
                self._holds.remove(hold_id)
            return False
        if authorization.hold is None:
            self._holds.remove(hold_id)
            return True
        if request.flow is Flow.HOLD:
            return True
        due_ns = await self._think()
        answer: drawdown.ReleaseResult | drawdown.CommitResult | drawdown.DrawdownError
        if request.flow is Flow.RELEASE:
            release = self._client.release(wallet_id=wallet_id, hold_id=hold_id, reason="load test")
            answer = await self._timed(Call.RELEASE, due_ns, release)
        else:
            owed.used, owed.hold_token = request.used, authorization.hold.hold_token
            commit = self._client.commit(
                wallet_id=wallet_id, hold_id=hold_id, amounts=owed.used, hold_token=owed.hold_token
            )
            answer = await self._timed(Call.COMMIT, due_ns, commit)
        if isinstance(answer, drawdown.DrawdownError):
            return False
        self._holds.remove(hold_id)
        if isinstance(answer, drawdown.CommitResult):
            self.recording.debited.update(answer.debited)
        return True

    async def _think(self) -> int:
        """Waits while the customer's request runs, or until the run is stopped; when it was over."""
        due_ns = time.monotonic_ns() + round(self._plan.think_s * NS)
        if self._plan.think_s > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), self._plan.think_s)
        return min(due_ns, time.monotonic_ns())

    async def _timed(self, call: Call, due_ns: int, sent: Awaitable[Answer]) -> Answer | drawdown.DrawdownError:
        """The answer or the error, which is noted with its time."""
        answer: Answer | drawdown.DrawdownError
        try:
            answer = await sent
        except drawdown.DrawdownError as error:
            answer = error
        ended_ns = time.monotonic_ns()
        recording, is_measured = self.recording, due_ns >= self._zero_ns
        if isinstance(answer, drawdown.DrawdownError):
            outcome = Outcome.FAILED
            if is_measured:
                recording.errors[call, answer.code.name, answer.reason] += 1
        else:
            denial: drawdown.Denial | None = getattr(answer, "denial", None)
            outcome = Outcome.OK if denial is None else Outcome.DENIED
            if denial is not None and is_measured:
                recording.denials[call, str(denial.reason)] += 1
            if getattr(answer, "replayed", False) and is_measured:
                recording.replayed[call] += 1
        recording.end(call, due_ns, ended_ns, outcome)
        return answer

    def _id_of(self, request: Request) -> str:
        return f"{self._plan.run_id}-{request.number}"
