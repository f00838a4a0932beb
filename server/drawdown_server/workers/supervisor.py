"""The parent of the workers: starts them, restarts a dead one, passes on what it is told.

It opens no store and makes no gRPC object; all it does is to look after processes. A fork of a process that uses gRPC
is broken, so each worker is a new program.

==================  ==================================================================================================
SIGTERM, SIGINT     every worker drains and ends; a second one ends them at once
SIGHUP              a rolling restart, one after the other: the next worker is ready before the one before it drains.
                    The first that does not get ready ends the round, and the old ones stay
a worker dies       another takes its place at once, later each time that it dies soon
a worker is silent  it is killed, and dies
the supervisor dies every worker drains and ends
==================  ==================================================================================================

The first worker starts alone. If it ends before it serves, everything ends with its exit code: what is wrong is wrong
for all, and it has said what. The same for the others, until all have served once.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

import structlog

from drawdown_server.workers.link import BEAT_S
from drawdown_server.workers.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

log = structlog.get_logger(__name__)

SILENT_BEATS_MAX: Final = 30
"""A worker whose event loop has not moved for so many seconds serves nobody: callers time out after 2. Counted in
beats of the supervisor, so that a machine that was paused kills nobody when it goes on, and from the first sign of life
on, so that a slow machine may take its time to start one."""
RESTART_FIRST_S: Final = 0.1
"""Pause before a worker that died soon after its start is restarted; doubles each time."""
RESTART_MAX_S: Final = 10.0
"""Longest pause: once a store is back, the worker is too by then."""
STABLE_S: Final = 60.0
"""A worker that lived for so long did not die of its start: the pauses begin anew."""
START_WAIT_S: Final = 120.0
"""How long a worker of a rolling restart may take to serve: most of it waits for a store that is slow."""


class Supervisor:
    """Runs workers until it is told to stop.

    Args:
        command: The command line of the worker at a place, and for the descriptor of its link.
        count: How many.
        end_wait_s: How long a worker may take to drain; then it is killed.
        on_ready: Called once all of them serve.
        silent_beats_max: As ``SILENT_BEATS_MAX``.
    """

    def __init__(
        self,
        command: Callable[[int, int], Sequence[str]],
        count: int,
        *,
        end_wait_s: float,
        on_ready: Callable[[], None] = lambda: None,
        silent_beats_max: int = SILENT_BEATS_MAX,
    ) -> None:
        self._command = command
        self._count = count
        self._end_wait_s = end_wait_s
        self._on_ready = on_ready
        self._silent_beats_max = silent_beats_max
        self._current: dict[int, Worker] = {}
        self._all: set[Worker] = set()
        self._failures = dict.fromkeys(range(count), 0)
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT; the exit code: 0 when every worker drained."""
        loop = asyncio.get_running_loop()
        handled = [signal.SIGTERM, signal.SIGINT]
        for number in handled:
            loop.add_signal_handler(number, self._on_stop)
        if not sys.stdin.isatty():  # there it means that the terminal is gone
            loop.add_signal_handler(signal.SIGHUP, self._reload.set)
            handled.append(signal.SIGHUP)
        beats = asyncio.create_task(self._beat(), name="beats")
        try:
            code = await self._start_all()
            if code is None:
                await self._until_stopped()
            return max(code or 0, await self._end_all())
        finally:
            beats.cancel()
            for number in handled:
                loop.remove_signal_handler(number)

    def _on_stop(self) -> None:
        is_second = self._stop.is_set()
        self._stop.set()
        for worker in self._all:
            if is_second:
                worker.send(signal.SIGKILL)
            else:
                worker.end()

    async def _start_all(self) -> int | None:
        """Start the workers; None when all serve or the stop came first, else the exit code of one that ended."""
        for batch in (range(1), range(1, self._count)):
            if self._stop.is_set():
                return None
            started = [await self._start(index) for index in batch]
            self._current.update((worker.index, worker) for worker in started)
            for worker in started:
                if not await worker.ready() and not self._stop.is_set():
                    log.error("workers.gave_up", worker=worker.index, code=worker.ended.result())
                    return max(1, worker.ended.result())
        for worker in self._current.values():
            self._follow(self._watch(worker))
        if not self._stop.is_set():
            self._on_ready()
        return None

    async def _until_stopped(self) -> None:
        """Restart in turn whenever asked to; raises what a task of ours died of."""
        while not self._stop.is_set():
            waiting = [asyncio.create_task(event.wait()) for event in (self._stop, self._reload)]
            futures: set[asyncio.Future[Any]] = {*waiting, self._failed}
            try:
                await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in waiting:
                    one.cancel()
            if self._failed.done():
                self._failed.result()
            if self._reload.is_set() and not self._stop.is_set():
                self._reload.clear()
                await self._restart_in_turn()

    async def _end_all(self) -> int:
        """Wait for the end of every worker, which has been told; kill those that take too long."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self._stop.is_set():  # a worker ended before it served, or a task of ours died
            self._on_stop()
        log.info("workers.draining", workers=len(self._all))
        codes = await asyncio.gather(*(self._end(worker) for worker in self._all))
        log.info("workers.stopped")
        return 1 if any(codes) else 0

    async def _end(self, worker: Worker) -> int:
        await asyncio.wait({worker.ended}, timeout=self._end_wait_s)
        if not worker.ended.done():
            log.error("worker.killed", worker=worker.index, pid=worker.pid, why="it did not drain in time")
            worker.send(signal.SIGKILL)
        return await worker.ended

    async def _start(self, index: int) -> Worker:
        worker = await Worker.start(index, self._command)
        self._all.add(worker)
        worker.ended.add_done_callback(lambda _: self._all.discard(worker))
        if self._stop.is_set():
            worker.end()
        return worker

    async def _try_start(self, index: int) -> Worker | None:
        try:
            return await self._start(index)
        except OSError as error:
            self._failures[index] += 1
            log.error("worker.not_started", worker=index, why=str(error))  # noqa: TRY400  # its traceback says no more
            return None

    def _follow(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self._failed.done():
            self._failed.set_exception(error)

    async def _watch(self, worker: Worker) -> None:
        """Put another in the place of a worker that died; not of one that was replaced, or told to end."""
        index, born = worker.index, asyncio.get_running_loop().time()
        code = await asyncio.shield(worker.ended)
        if self._current[index] is not worker or self._stop.is_set():
            return
        lived_s = asyncio.get_running_loop().time() - born
        self._failures[index] = 1 if lived_s >= STABLE_S else self._failures[index] + 1
        log.error("worker.died", worker=index, pid=worker.pid, code=code, lived_s=round(lived_s, 3))
        while self._current[index] is worker:  # a rolling restart may come first
            await asyncio.sleep(min(RESTART_MAX_S, RESTART_FIRST_S * 2.0 ** (min(self._failures[index], 10) - 1)))
            if self._current[index] is worker and (new := await self._try_start(index)):
                if self._current[index] is not worker:  # or while this one began
                    new.end()
                    return
                self._current[index] = new
                self._follow(self._watch(new))

    async def _restart_in_turn(self) -> None:
        log.info("workers.restarting", workers=self._count)
        for index in range(self._count):
            new = await self._try_start(index)
            is_ready = new is not None and await self._gets_ready(new)
            if self._stop.is_set():
                return
            if new is None or not is_ready:
                log.error("workers.not_restarted", worker=index, why="the new one did not get ready; the old ones stay")
                return
            old, self._current[index] = self._current[index], new
            self._failures[index] = 0
            self._follow(self._watch(new))
            old.replace()
            log.info("worker.replaced", worker=index, pid=old.pid, by=new.pid, code=await self._end(old))
            if self._stop.is_set():
                return
        log.info("workers.restarted", workers=self._count)

    async def _gets_ready(self, worker: Worker) -> bool:
        try:
            async with asyncio.timeout(START_WAIT_S):
                return await worker.ready()
        except TimeoutError:
            worker.send(signal.SIGKILL)
            return False

    async def _beat(self) -> None:
        """Count the beats in which a worker was silent, and kill one that was for too many."""
        while True:
            await asyncio.sleep(BEAT_S)
            for worker in filter(Worker.has_spoken, self._all):
                worker.silent_beats += 1
                if worker.silent_beats == self._silent_beats_max:
                    log.error("worker.killed", worker=worker.index, pid=worker.pid, why="its event loop does not move")
                    worker.send(signal.SIGKILL)
