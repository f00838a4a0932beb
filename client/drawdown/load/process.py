"""One process of a run: connects, waits for the common start, sends its share, reports once a second, settles, ends.

It hears from the parent over a pipe: ``Start``, and ``Stop`` or the end of the pipe, which is the parent's end. It
says ``Ready`` or ``Failed``, then ``Tick``s, and ``Done`` last.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import selectors
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import drawdown
from drawdown.load.recording import NS, Recording
from drawdown.load.traffic import Traffic

if TYPE_CHECKING:
    from multiprocessing.connection import Connection as Pipe

    from drawdown.load.connection import Connection
    from drawdown.load.plan import Plan

TICK_S: Final = 1.0
"""Between two reports: what people can follow."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Connected."""


@dataclass(frozen=True, slots=True)
class Failed:
    """It cannot go on; the message is for people."""

    message: str


@dataclass(frozen=True, slots=True)
class Tick:
    """What was noted since the last one."""

    process: int
    recording: Recording
    in_flight: int


@dataclass(frozen=True, slots=True)
class Done:
    """Everything was sent and settled."""

    process: int
    recording: Recording
    cpu_share: float
    """Of one core, while requests were sent."""


Message: TypeAlias = Ready | Failed | Tick | Done


@dataclass(frozen=True, slots=True)
class Start:
    """Begin so that the warm-up ends at this time of the monotonic clock."""

    zero_ns: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Send nothing new, wait for the answers, settle."""


def main(pipe: Pipe, connection: Connection, plan: Plan, process: int) -> None:
    """The whole life of the process."""
    # A Ctrl-C reaches every process of the terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Timers of the usual selectors fire up to a millisecond late: as late as a whole call takes.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(_live(pipe, connection, plan, process))


async def _live(pipe: Pipe, connection: Connection, plan: Plan, process: int) -> None:
    await _Process(pipe, connection, plan, process).run()  # made in its loop, to which its future belongs


class _Process:
    """The process, between the pipe and its traffic."""

    def __init__(self, pipe: Pipe, connection: Connection, plan: Plan, process: int) -> None:
        self._pipe = pipe
        self._connection = connection
        self._plan = plan
        self._process = process
        self._start: asyncio.Future[int] = asyncio.Future()
        self._stop = asyncio.Event()

    async def run(self) -> None:
        asyncio.get_running_loop().add_reader(self._pipe.fileno(), self._hear)
        try:
            async with self._connection.open() as client:
                # The connection, and the code of both sides, are not what is measured.
                with contextlib.suppress(drawdown.PermissionDeniedError):  # a gateway's key may not read
                    await client.get_balance(wallet_id=self._plan.wallets[0])
                self._say(Ready())
                await self._send(client, await self._start)
        except drawdown.DrawdownError as error:
            self._say(Failed(f"{error.code.name}: {error.message}"))
        except asyncio.CancelledError:
            if not self._stop.is_set():  # else: stopped before the start
                raise

    async def _send(self, client: drawdown.AsyncClient, zero_ns: int) -> None:
        plan = self._plan
        traffic = Traffic(client, plan, self._process, Recording(zero_ns, round(plan.interval_s * NS)), self._stop)
        gc.collect()
        gc.freeze()  # what is here stays; the collector must not look through it between two calls
        ticking = asyncio.create_task(self._tick(traffic), name="ticking")
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        await traffic.run()
        cpu_share = (time.process_time() - began_cpu_s) / max(1e-9, time.monotonic() - began_s)
        await traffic.settle()
        ticking.cancel()
        await asyncio.wait([ticking])
        self._say(Done(self._process, traffic.take(), cpu_share))

    async def _tick(self, traffic: Traffic) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._say(Tick(self._process, traffic.take(), traffic.in_flight))

    def _say(self, message: Message) -> None:
        with contextlib.suppress(OSError):  # the parent is gone: then nobody wants to know
            self._pipe.send(message)

    def _hear(self) -> None:
        try:
            message = self._pipe.recv()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(self._pipe.fileno())
            message = Stop()
        if isinstance(message, Start):
            self._start.set_result(message.zero_ns)
            return
        self._stop.set()
        self._start.cancel()
