"""The supervisor with workers that are small programs: what it does when they die, hang, or do not start."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import pytest
from structlog.testing import capture_logs

from drawdown_server.workers import link
from drawdown_server.workers.supervisor import Supervisor
from drawdown_server.workers.worker import Worker
from integration.server import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

PROGRAM: Final = """
import os, pathlib, select, signal, socket, sys
index, descriptor, directory, how = sys.argv[1:]
link = socket.socket(fileno=int(descriptor))
told = pathlib.Path(directory, f"{index}-{os.getpid()}")
leaving = False
told.write_text("beginning")
if how == "unready":
    select.select([], [], [])
def leave(word):
    global leaving
    leaving = True
    if how == "slow":
        told.write_text("leaving")
        while not pathlib.Path(directory, "go").exists():
            select.select([], [], [], 0.01)
    told.write_text(word)
    sys.exit(0)
def end(number, frame):
    if leaving:
        told.write_text("cut off")
        sys.exit(1)
    leave("ended")
signal.signal(signal.SIGTERM, end)
if (pathlib.Path(directory) / "broken").exists():
    told.write_text("refused")
    sys.exit(3)
if how == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
told.write_text("started")
link.send(b"r")
link.settimeout(0.05)
while True:
    try:
        if how != "silent":
            link.send(b".")
        byte = link.recv(1)
    except TimeoutError:
        continue
    if byte == b"e" and how == "deaf":
        continue
    leave({b"x": "replaced", b"e": "ended", b"": "orphaned"}[byte])
"""


class Supervised:
    """A supervisor that runs, and what its workers have said."""

    def __init__(self, directory: Path, how: str, count: int, silent_beats_max: int, end_wait_s: float) -> None:
        self._directory = directory
        self.ready = asyncio.Event()
        self.task = asyncio.create_task(
            Supervisor(
                lambda index, descriptor: [sys.executable, "-c", PROGRAM, str(index), str(descriptor), directory, how],
                count,
                end_wait_s=end_wait_s,
                on_ready=self.ready.set,
                silent_beats_max=silent_beats_max,
            ).run()
        )

    def said(self) -> list[tuple[int, int, str]]:
        """Place, pid and last word of every worker that ever was, the first place first."""
        names = [path.name.split("-") for path in self._directory.iterdir() if "-" in path.name]
        return sorted((int(i), int(pid), (self._directory / f"{i}-{pid}").read_text()) for i, pid in names)

    def words(self) -> list[str]:
        return sorted(word for _, _, word in self.said())

    async def says(self, *words: str) -> None:
        async def said() -> bool:
            return self.words() == sorted(words)

        await until(said)

    async def started(self, count: int) -> None:
        await self._counts("started", count)

    async def refused(self, count: int) -> None:
        await self._counts("refused", count)

    async def _counts(self, word: str, count: int) -> None:
        async def counted() -> bool:
            return self.words().count(word) >= count

        await until(counted)

    async def is_ready(self) -> None:
        ready = asyncio.create_task(self.ready.wait())
        await asyncio.wait({ready, self.task}, return_when=asyncio.FIRST_COMPLETED)
        assert ready.done(), await self.task


@asynccontextmanager
async def supervised(
    directory: Path, *, how: str = "good", count: int = 2, silent_beats_max: int = 30, end_wait_s: float = 20.0
) -> AsyncIterator[Supervised]:
    running = Supervised(directory, how, count, silent_beats_max, end_wait_s)
    try:
        yield running
    finally:
        if not running.task.done():
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait({running.task}, timeout=30)


def logged(logs: Sequence[Mapping[str, object]], event: str) -> Callable[[], Awaitable[bool]]:
    """For ``until``: the supervisor has said this."""

    async def was_logged() -> bool:
        return any(line["event"] == event for line in logs)

    return was_logged


def ask(number: signal.Signals) -> None:
    """What an operator does; the supervisor runs in this process."""
    os.kill(os.getpid(), number)


async def test_sigterm_ends_every_worker_and_the_supervisor_with_0(directory: Path) -> None:
    async with supervised(directory, count=3) as running:
        await running.is_ready()
        assert running.words() == ["started"] * 3
        ask(signal.SIGTERM)
        assert await running.task == 0
        assert running.words() == ["ended"] * 3


async def test_sigterm_before_the_workers_serve_ends_everything_with_0(directory: Path) -> None:
    with capture_logs() as logs:
        async with supervised(directory, how="unready") as running:
            await running.says("beginning")
            ask(signal.SIGTERM)
            assert await running.task == 0
    assert not running.ready.is_set()
    assert "workers.gave_up" not in {line["event"] for line in logs}


async def test_a_worker_that_dies_is_replaced_and_the_others_stay(directory: Path) -> None:
    async with supervised(directory) as running:
        await running.is_ready()
        (_, first, _), (_, second, _) = running.said()
        os.kill(first, signal.SIGKILL)
        await running.says("started", "started", "started")
        assert [index for index, _, _ in running.said()] == [0, 0, 1]
        ask(signal.SIGTERM)
        assert await running.task == 0
        assert (1, second, "ended") in running.said()


async def test_a_worker_that_ends_at_its_first_start_ends_everything_with_its_exit_code(directory: Path) -> None:
    (directory / "broken").touch()
    async with supervised(directory) as running:
        assert await running.task == 3
        assert running.words() == ["refused"], "what is wrong for the first is wrong for all"


async def test_a_worker_that_cannot_be_restarted_is_tried_again_until_it_can(directory: Path) -> None:
    async with supervised(directory) as running:
        await running.is_ready()
        broken = directory / "broken"
        broken.touch()
        os.kill(running.said()[0][1], signal.SIGKILL)
        await running.refused(2)
        broken.unlink()
        await running.started(3)
        assert not running.task.done()


async def test_a_rolling_restart_replaces_each_worker_once_the_next_is_ready(directory: Path) -> None:
    async with supervised(directory) as running:
        await running.is_ready()
        old = [pid for _, pid, _ in running.said()]
        ask(signal.SIGHUP)
        await running.says("replaced", "replaced", "started", "started")
        assert {pid for _, pid, word in running.said() if word == "replaced"} == set(old)
        ask(signal.SIGTERM)
        assert await running.task == 0
        assert running.words() == ["ended", "ended", "replaced", "replaced"]


async def test_a_rolling_restart_whose_first_worker_does_not_start_leaves_the_old_ones(directory: Path) -> None:
    async with supervised(directory) as running:
        await running.is_ready()
        before = running.said()
        broken = directory / "broken"
        broken.touch()
        ask(signal.SIGHUP)
        await running.refused(1)
        assert [worker for worker in running.said() if worker[2] != "refused"] == before
        broken.unlink()
        ask(signal.SIGHUP)  # it can be asked again
        await running.says("refused", "replaced", "replaced", "started", "started")
        assert {pid for _, pid, _ in before} == {pid for _, pid, word in running.said() if word == "replaced"}


async def test_a_worker_that_was_told_to_end_by_somebody_else_as_well_still_drains(directory: Path) -> None:
    """A service manager signals every process of a service."""
    with capture_logs() as logs:
        async with supervised(directory, how="slow", count=1) as running:
            await running.is_ready()
            os.kill(running.said()[0][1], signal.SIGTERM)
            await running.says("leaving")
            ask(signal.SIGTERM)
            await until(logged(logs, "workers.draining"))
            (directory / "go").touch()
            assert await running.task == 0
            assert running.words() == ["ended"]


async def test_a_worker_that_drains_because_it_was_replaced_does_so_too_when_all_are_told_to_end(
    directory: Path,
) -> None:
    async with supervised(directory, how="slow", count=1) as running:
        await running.is_ready()
        ask(signal.SIGHUP)
        await running.says("leaving", "started")
        ask(signal.SIGTERM)
        await running.says("leaving", "leaving")
        (directory / "go").touch()
        assert await running.task == 0
        assert running.words() == ["ended", "replaced"]


async def test_a_second_sigterm_ends_workers_at_once(directory: Path) -> None:
    async with supervised(directory, how="slow") as running:
        await running.is_ready()
        ask(signal.SIGTERM)
        await running.says("leaving", "leaving")
        ask(signal.SIGTERM)
        assert await running.task == 1
        assert running.words() == ["leaving", "leaving"]


async def test_a_rolling_restart_that_overtakes_the_restart_of_a_dead_worker_leaves_one_worker_in_its_place(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_go_on = asyncio.Event(), asyncio.Event()
    start = Worker.start

    async def start_slowly_once(index: int, command: Callable[[int, int], Sequence[str]]) -> Worker:
        worker = await start(index, command)
        if not begun.is_set():
            begun.set()
            await may_go_on.wait()
        return worker

    with capture_logs() as logs:
        async with supervised(directory, count=1) as running:
            await running.is_ready()
            monkeypatch.setattr(Worker, "start", start_slowly_once)
            os.kill(running.said()[0][1], signal.SIGKILL)
            await running.started(2)
            ask(signal.SIGHUP)
            await until(logged(logs, "workers.restarted"))
            may_go_on.set()
            await running.says("started", "started", "ended")  # killed; of the rolling restart; the late one
            ask(signal.SIGTERM)
            assert await running.task == 0


async def test_a_worker_that_is_silent_is_killed_and_replaced(directory: Path) -> None:
    async with supervised(directory, how="silent", count=1, silent_beats_max=2) as running:
        await running.is_ready()
        await running.started(2)


async def test_a_worker_that_does_not_drain_in_time_is_killed(directory: Path) -> None:
    async with supervised(directory, how="deaf", count=1, end_wait_s=0.2) as running:
        await running.is_ready()
        ask(signal.SIGTERM)
        assert await running.task == 1
        assert running.words() == ["started"]


@pytest.mark.parametrize("is_replaced", [True, False])
async def test_a_worker_hears_that_it_was_replaced_and_that_its_supervisor_is_gone(is_replaced: bool) -> None:
    ours, theirs = socket.socketpair()
    stop = asyncio.Event()
    async with asyncio.timeout(10), link.WorkerLink(theirs.detach(), stop) as worker:
        worker.say_ready()
        assert not stop.is_set()
        if is_replaced:
            ours.send(link.REPLACED)
        else:
            ours.close()
        await stop.wait()
        assert worker.is_replaced is is_replaced
    ours.close()
