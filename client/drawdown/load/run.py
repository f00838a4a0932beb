"""A run from the outside: balances before, processes that start together, their reports, balances after.

The parent sends no traffic. It is synchronous while the traffic runs, so nothing of it competes with the processes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import multiprocessing
import multiprocessing.connection
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

import drawdown
from drawdown.load import process, wallets
from drawdown.load.recording import NS, Recording
from drawdown.load.result import Books, Result

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from multiprocessing.connection import Connection as Pipe
    from multiprocessing.context import SpawnProcess
    from types import FrameType

    from drawdown.load.connection import Connection
    from drawdown.load.plan import Plan

START_S: Final = 60.0
"""Longest wait for all processes to be connected: a loaded machine imports slowly."""
COMMON_START_S: Final = 0.1
"""From the word to the first request: enough for every process to have heard it."""
PATIENCE_S: Final = 10.0
"""Least deadline of the calls before and after the traffic: they are not measured, and must not fail by being slow."""
POLL_S: Final = 0.2
"""How soon a signal is noticed."""
END_S: Final = 5.0
"""For a process to end after its last word."""


class LoadError(Exception):
    """The run cannot be done, or was not done to its end; the message is for people."""


class Progress(Protocol):
    """Where a run says how it is going."""

    def phase(self, what: str, total: int) -> None:
        """Something begins that has so many parts; 0 when that is not known."""

    def advance(self) -> None:
        """One part is done."""

    def tick(self, after_s: float, recent: Recording, in_flight: int) -> None:
        """What came in since the last tick; below 0 seconds it is warming up."""

    def note(self, text: str) -> None:
        """A line for people."""

    def close(self) -> None:
        """Nothing more is coming."""


class Interrupts:
    """SIGINT and SIGTERM: the first one ends the run with a report, the second one at once."""

    def __init__(self, progress: Progress) -> None:
        self.count = 0
        self._progress = progress

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handles one."""
        del number, frame
        self.count += 1
        if self.count > 1:
            raise KeyboardInterrupt
        self._progress.note("stopping: open holds are settled, then comes the report; once more to leave at once")

    @contextmanager
    def kept_from_children(self) -> Iterator[None]:
        """What begins in here ignores SIGINT from its first moment: a Ctrl-C reaches every process of a terminal."""
        if signal.getsignal(signal.SIGINT) is not self:
            yield
            return
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, self)


def run(
    plan: Plan, connection: Connection, progress: Progress, *, funds: Mapping[str, int] | None, is_checked: bool = True
) -> Result:
    """Does the whole run.

    Args:
        plan: What to do.
        connection: The server, and how it is called.
        progress: Where to say how it is going.
        funds: What each wallet is to have available at the beginning, in units by asset; None takes the wallets as
            they are.
        is_checked: Whether the balances are read before and after.

    Raises:
        LoadError: A process failed.
        WalletsError: The wallets cannot be used.
        DrawdownError: A call before the traffic failed.
        KeyboardInterrupt: Interrupted before the traffic, or twice.
    """
    patient = dataclasses.replace(connection, timeout_s=max(PATIENCE_S, connection.timeout_s))
    if funds is not None:
        asyncio.run(_make(plan, patient, progress, funds))
    before = asyncio.run(_read(plan, patient, progress)) if is_checked else None
    began = datetime.now(UTC)
    with _interrupts(progress) as interrupts:
        traffic = _Parent(plan, connection, progress, interrupts).run()
        after, unread = None, ""
        if is_checked:
            try:
                after = asyncio.run(_read(plan, patient, progress))
            except drawdown.DrawdownError as error:  # the server is gone: all the more is the report wanted
                unread = f"{error.code.name}: {error.message}"
    return Result(
        plan=plan,
        connection=connection,
        began=began,
        measured_s=traffic.measured_s,
        is_stopped_early=interrupts.count > 0,
        recording=traffic.recording,
        cpu_shares=traffic.cpu_shares,
        books=None if before is None or after is None else Books(before, after),
        unread=unread,
    )


async def _make(plan: Plan, connection: Connection, progress: Progress, funds: Mapping[str, int]) -> None:
    async with connection.open() as client:
        progress.phase("making wallets", len(plan.wallets))
        await wallets.make(client, plan.wallets, funds, run_id=plan.run_id, on_done=progress.advance)


async def _read(plan: Plan, connection: Connection, progress: Progress) -> wallets.Sums:
    async with connection.open() as client:
        progress.phase("reading balances", len(plan.wallets))
        return await wallets.read(client, plan.wallets, progress.advance)


@contextmanager
def _interrupts(progress: Progress) -> Iterator[Interrupts]:
    interrupts = Interrupts(progress)
    if threading.current_thread() is not threading.main_thread():  # only there does Python handle signals
        yield interrupts
        return
    before = {number: signal.signal(number, interrupts) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(slots=True, eq=False)
class _Child:
    process: SpawnProcess
    pipe: Pipe
    in_flight: int = 0


@dataclass(slots=True)
class _Traffic:
    recording: Recording
    measured_s: float = 0.0
    cpu_shares: list[float] = field(default_factory=list)


class _Parent:
    """Starts the processes, hears them to their end, and leaves none behind."""

    def __init__(self, plan: Plan, connection: Connection, progress: Progress, interrupts: Interrupts) -> None:
        self._plan = plan
        self._connection = connection
        self._progress = progress
        self._interrupts = interrupts
        self._children: list[_Child] = []

    def run(self) -> _Traffic:
        plan = self._plan
        self._progress.phase("connecting", 0)
        try:
            with self._interrupts.kept_from_children():
                for number in range(plan.processes):
                    self._children.append(self._spawn(number))
            self._wait_until_ready()
            zero_ns = time.monotonic_ns() + round((COMMON_START_S + plan.warmup_s) * NS)
            traffic = _Traffic(Recording(zero_ns, round(plan.interval_s * NS)))
            self._progress.phase("sending", 0)
            self._tell_all(process.Start(zero_ns))
            self._listen(traffic)
        finally:
            self._end()
        return traffic

    def _spawn(self, number: int) -> _Child:
        # Spawned, not forked: gRPC's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (theirs, self._connection, self._plan, number)
        child = context.Process(target=process.main, args=arguments, name=f"load-{number}", daemon=True)
        child.start()
        theirs.close()
        return _Child(child, ours)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_S
        waiting = set(self._children)
        while waiting:
            for child in self._heard(waiting):
                message = _receive(child.pipe)
                if isinstance(message, process.Failed):
                    raise LoadError(f"cannot connect to {self._connection.target}: {message.message}")
                waiting.discard(child)
            if self._interrupts.count:
                raise KeyboardInterrupt
            if time.monotonic() > deadline:
                raise LoadError(f"the processes of the run did not connect within {START_S:g} s")

    def _listen(self, traffic: _Traffic) -> None:
        end_ns = traffic.recording.zero_ns + round(self._plan.duration_s * NS)
        recent, is_stopped = traffic.recording.empty(), False
        working, ticked = set(self._children), set[_Child]()
        while working:
            for child in self._heard(working):
                message = _receive(child.pipe)
                if isinstance(message, process.Failed):
                    raise LoadError(f"a process of the run failed: {message.message}")
                if isinstance(message, process.Ready):
                    continue
                recent.merge(message.recording)
                traffic.recording.merge(message.recording)
                if isinstance(message, process.Tick):
                    child.in_flight = message.in_flight
                    ticked.add(child)
                else:
                    traffic.cpu_shares.append(message.cpu_share)
                    child.in_flight = 0
                    working.discard(child)
                if ticked >= working:  # a second of all of them
                    after_s = (time.monotonic_ns() - traffic.recording.zero_ns) / NS
                    self._progress.tick(after_s, recent, sum(child.in_flight for child in self._children))
                    recent = recent.empty()
                    ticked.clear()
            if self._interrupts.count and not is_stopped:
                is_stopped, end_ns = True, min(end_ns, time.monotonic_ns())
                self._tell_all(process.Stop())
        traffic.measured_s = max(0, end_ns - traffic.recording.zero_ns) / NS

    def _heard(self, children: set[_Child]) -> list[_Child]:
        ready = multiprocessing.connection.wait([child.pipe for child in children], POLL_S)
        return [child for child in children if child.pipe in ready]

    def _tell_all(self, message: process.Start | process.Stop) -> None:
        for child in self._children:
            child.pipe.send(message)

    def _end(self) -> None:
        """Ends what still runs: a process whose pipe is closed settles and leaves, one that does not is killed."""
        for child in self._children:
            child.pipe.close()
        for child in self._children:
            child.process.join(END_S)
            if child.process.is_alive():
                child.process.kill()
                child.process.join()


def _receive(pipe: Pipe) -> process.Message:
    try:
        message: process.Message = pipe.recv()
    except (EOFError, ConnectionResetError):
        raise LoadError("a process of the run ended without a word; its error is above") from None
    return message
