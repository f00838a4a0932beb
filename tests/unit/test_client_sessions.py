"""When calls go over Sessions, and that none waits for one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any, Final, cast, get_args

import grpc
import pytest

import drawdown
from drawdown import _connections, _session_thread, _sessions
from drawdown._channel import ATTEMPTS_MAX, OTHER_LOOP, Transport
from drawdown._sessions import BUSY_AT, BYTES_MAX, SILENT_S, Session
from drawdown.v1 import authorization_service_pb2 as pb
from fake_drawdown import THREADS, WAIT_S, Failure, FakeDrawdown, committed
from transports import wait_for_sessions

COMMIT: Final[dict[str, Any]] = {"wallet_id": "demo", "hold_id": "h", "amounts": {"USD": 5}}
ANSWER: Final = committed({"USD": 5}, {"USD": 5})


async def commit_until_there_is_a_session(client: drawdown.AsyncClient) -> None:
    async with asyncio.timeout(WAIT_S):
        while client._sessions is None or client._sessions._session() is None:
            await client.commit(**COMMIT)


async def test_asyncio_takes_sessions_by_default_and_threads_calls(fake: FakeDrawdown) -> None:
    fake.answer("Commit", ANSWER)
    async with drawdown.AsyncClient(fake.target) as client:
        await commit_until_there_is_a_session(client)
    assert len(fake.calls("Session")) == 1

    def threads() -> None:
        with drawdown.Client(fake.target) as client:
            client.commit(**COMMIT)

    await asyncio.to_thread(threads)
    assert len(fake.calls("Session")) == 1


async def test_unary_opens_no_session(fake: FakeDrawdown) -> None:
    fake.answer("Commit", ANSWER)
    async with drawdown.AsyncClient(fake.target, transport="unary") as client:
        await client.commit(**COMMIT)
    assert fake.calls("Session") == []


@pytest.mark.parametrize("flavour", ["async", "sync"])
@pytest.mark.parametrize(
    "server",
    [
        pytest.param({"sessions": False}, id="an older server"),
        pytest.param({"takes_sessions": False}, id="a proxy that keeps streams to itself"),
    ],
)
async def test_where_no_session_gets_through_calls_go_by_themselves(flavour: str, server: dict[str, bool]) -> None:
    with FakeDrawdown(**server) as fake:
        fake.answer("Commit", ANSWER)
        if flavour == "async":
            async with drawdown.AsyncClient(fake.target) as client:
                for _ in range(3):
                    assert (await client.commit(**COMMIT)).debited == {"USD": 5}
        else:

            def threads() -> None:
                with drawdown.Client(fake.target, transport="session") as client:
                    for _ in range(3):
                        assert client.commit(**COMMIT).debited == {"USD": 5}

            await asyncio.to_thread(threads)
        assert len(fake.calls("Commit")) == 3
        assert len(fake.calls("Session")) <= 1  # and is not asked for it with each call


async def test_a_stream_that_nobody_takes_is_given_up_and_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sessions, "SILENT_S", 0.05)
    monkeypatch.setattr(_sessions, "UNKNOWN_S", 0.0)
    monkeypatch.setattr(_sessions, "REOPEN_S", 0.0)
    with FakeDrawdown(takes_sessions=False) as fake:
        fake.answer("Commit", ANSWER)
        async with drawdown.AsyncClient(fake.target) as client, asyncio.timeout(WAIT_S):
            while len(fake.calls("Session")) < 3:
                assert (await client.commit(**COMMIT)).debited == {"USD": 5}


async def test_another_session_is_opened_when_each_is_busy(fake: FakeDrawdown) -> None:
    fake.answer("Commit", ANSWER)
    async with drawdown.AsyncClient(fake.target) as client:
        await commit_until_there_is_a_session(client)
        go_on = threading.Event()

        def later(_: object) -> Any:  # noqa: ANN401 - one of the answers of the fake
            assert go_on.wait(WAIT_S)
            return ANSWER

        fake.answer("Commit", later)
        calls = [asyncio.create_task(client.commit(**COMMIT)) for _ in range(BUSY_AT)]
        await asyncio.to_thread(fake.wait_for, "Commit", len(fake.calls("Commit")) + THREADS)
        assert len(fake.calls("Session")) == 1
        calls.append(asyncio.create_task(client.commit(**COMMIT)))
        await asyncio.to_thread(fake.wait_for, "Session", 2)
        go_on.set()
        for result in await asyncio.gather(*calls):
            assert result.debited == {"USD": 5}


async def test_a_call_too_large_for_a_stream_goes_by_itself_and_leaves_it_to_the_others(fake: FakeDrawdown) -> None:
    fake.answer("Commit", ANSWER)
    async with drawdown.AsyncClient(fake.target) as client:
        await commit_until_there_is_a_session(client)
        large = b"x" * (BYTES_MAX + 1)
        assert (await client.commit(**COMMIT, hold_token=large)).debited == {"USD": 5}
        await commit_until_there_is_a_session(client)
    assert len(fake.calls("Session")) == 1


async def test_a_stream_that_nobody_reads_any_more_is_left(fake: FakeDrawdown) -> None:
    fake.answer("Commit", ANSWER)
    async with drawdown.AsyncClient(fake.target) as client:
        await commit_until_there_is_a_session(client)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:  # as a program does that ends, before it gives its holds back
            task.cancel()
        await asyncio.wait(others)
        async with asyncio.timeout(WAIT_S):
            assert (await client.commit(**COMMIT)).debited == {"USD": 5}


async def test_a_stream_from_which_nothing_comes_any_more_is_left(fake: FakeDrawdown) -> None:
    fake.answer("Commit", ANSWER)
    async with drawdown.AsyncClient(fake.target) as client:
        await commit_until_there_is_a_session(client)
        fake.mute_sessions()
        in_flight = asyncio.create_task(client.commit(**COMMIT, timeout_s=2 * WAIT_S))
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    result = await client.commit(**COMMIT, timeout_s=SILENT_S / 4)
                except drawdown.DeadlineExceededError:
                    continue
                break
        assert result.debited == {"USD": 5}
        assert not in_flight.done()  # it waits for its own deadline
        await asyncio.to_thread(fake.wait_for, "Session", 2)
        in_flight.cancel()


async def test_a_stream_that_answers_others_is_not_left_for_a_call_that_takes_long(
    fake: FakeDrawdown, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def one_is_stuck(request: Any) -> Any:  # noqa: ANN401 - of Commit, and one of the answers of the fake
        assert request.hold_id != "stuck" or go_on.wait(WAIT_S)
        return ANSWER

    fake.answer("Commit", one_is_stuck)
    async with drawdown.AsyncClient(fake.target, timeout_s=WAIT_S) as client:
        await commit_until_there_is_a_session(client)
        assert client._sessions is not None
        session = client._sessions._session()
        monkeypatch.setattr(_sessions, "SILENT_S", 0.0)
        try:
            for is_heard in (True, False):
                stuck = asyncio.create_task(client.commit(**COMMIT | {"hold_id": "stuck"}))
                await asyncio.to_thread(fake.wait_for, "Commit", len(fake.calls("Commit")) + 1)
                if is_heard:
                    await client.commit(**COMMIT)
                stuck.cancel()
                await asyncio.wait([stuck])
                assert (client._sessions._session() is session) is is_heard
        finally:
            go_on.set()


@pytest.mark.parametrize("flavour", ["async", "sync"])
@pytest.mark.parametrize("sessions", [True, False], ids=["a stream that ends", "an older server"])
async def test_attempts_over_streams_and_by_themselves_count_together(
    monkeypatch: pytest.MonkeyPatch, flavour: str, sessions: bool
) -> None:
    wait_for_sessions(monkeypatch)
    with FakeDrawdown(sessions=sessions) as fake:

        def fail(_: object) -> Failure:
            fake.end_sessions()
            return Failure(grpc.StatusCode.UNAVAILABLE)

        fake.answer("Commit", fail)
        if flavour == "async":
            async with drawdown.AsyncClient(fake.target, timeout_s=WAIT_S) as client:
                with pytest.raises(drawdown.UnavailableError):
                    await client.commit(**COMMIT)
        else:

            def threads() -> None:
                with (
                    drawdown.Client(fake.target, timeout_s=WAIT_S, transport="session") as client,
                    pytest.raises(drawdown.UnavailableError),
                ):
                    client.commit(**COMMIT)

            await asyncio.to_thread(threads)
        assert len(fake.calls("Commit")) == ATTEMPTS_MAX


class StuckStream:
    """A stream whose flow control lets nothing through until it is told to."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.sent: asyncio.Queue[pb.SessionRequest] = asyncio.Queue()

    async def initial_metadata(self) -> None:
        pass

    def done(self) -> bool:
        return False

    def cancel(self) -> None:
        pass

    async def read(self) -> bytes:
        await asyncio.get_running_loop().create_future()
        return b""

    async def write(self, message: bytes) -> None:
        self.sent.put_nowait(pb.SessionRequest.FromString(message))
        await self.go_on.wait()


async def test_the_time_that_a_call_waited_to_be_sent_is_not_given_to_the_server() -> None:
    stream = StuckStream()
    session = Session(cast("Any", stream), ("", ""), lambda _: None)
    loop = asyncio.get_running_loop()
    calls = [asyncio.create_task(session.perform(pb.Operation(), WAIT_S))]
    await asyncio.wait_for(stream.sent.get(), WAIT_S)
    calls.append(asyncio.create_task(session.perform(pb.Operation(), WAIT_S)))
    await asyncio.sleep(0)  # it is made, and waits behind the other
    queued_s = loop.time()
    while (sent_s := loop.time()) == queued_s:
        pass
    stream.go_on.set()
    timeout = (await asyncio.wait_for(stream.sent.get(), WAIT_S)).operations[0].timeout
    assert 0 < timeout.seconds + timeout.nanos / 1e9 <= WAIT_S - (sent_s - queued_s)
    await session.close()
    for call in calls:
        with pytest.raises(RuntimeError, match="closed while"):
            await call


@pytest.mark.parametrize("waits", [True, False])
async def test_a_stream_is_silent_only_while_somebody_waits(monkeypatch: pytest.MonkeyPatch, waits: bool) -> None:
    loop = asyncio.get_running_loop()
    clock, later_s = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: clock() + later_s)
    session = Session(cast("Any", StuckStream()), ("", ""), lambda _: None)
    for _ in range(4):  # callers that hang up, now and then
        call = asyncio.create_task(session.perform(pb.Operation(), 1_000 * SILENT_S))
        await asyncio.sleep(0)
        later_s += SILENT_S / 2 if waits else 0
        call.cancel()
        await asyncio.wait([call])
        later_s += SILENT_S
    assert session.is_leaving is waits
    await session.close()


@pytest.mark.parametrize("transport", get_args(Transport))
def test_a_client_says_so_in_an_event_loop_that_is_not_its_own(fake: FakeDrawdown, transport: Transport) -> None:
    fake.answer("Commit", ANSWER)
    client = drawdown.AsyncClient(fake.target, timeout_s=WAIT_S, transport=transport)

    async def commit() -> None:
        await client.commit(**COMMIT)

    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(commit())
        for use in (commit, client.close):
            with pytest.raises(RuntimeError) as caught:
                second.run(use())
            assert str(caught.value) == OTHER_LOOP
        first.run(commit())
        first.run(client.close())


def test_a_client_for_threads_that_cannot_open_a_channel_says_why_each_time(
    fake: FakeDrawdown, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.answer("Commit", ANSWER)

    def fail(_: object) -> None:
        raise OSError("too many open files")

    threads = set(threading.enumerate())
    client = drawdown.Client(fake.target, timeout_s=WAIT_S, transport="session")
    with monkeypatch.context() as patched:
        patched.setattr(_connections, "_open_channel", fail)
        for _ in range(2):
            with pytest.raises(OSError, match="too many open files"):
                client.commit(**COMMIT)
    assert not any(thread.name == "drawdown-sessions" for thread in set(threading.enumerate()) - threads)
    with client:
        assert client.commit(**COMMIT).debited == {"USD": 5}


def test_a_client_of_the_process_before_a_fork_says_so(fake: FakeDrawdown) -> None:
    fake.answer("Commit", ANSWER)
    program = f"""
import os, drawdown
client = drawdown.Client({fake.target!r}, transport="session")
client.commit(wallet_id="demo", hold_id="h", amounts={{"USD": 5}})
child = os.fork()
if child == 0:
    try:
        client.commit(wallet_id="demo", hold_id="h", amounts={{"USD": 5}})
    except RuntimeError as error:
        os._exit(7 if str(error) == {_session_thread.FORKED!r} else 8)
    os._exit(9)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
client.close()
"""
    assert run(program) == ("7\n", "")


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(
            """
import drawdown
client = drawdown.Client({target!r}, transport="session")
for _ in range(50):
    client.commit(wallet_id="demo", hold_id="h", amounts={{"USD": 5}})
print("done")
""",
            id="sync",
        ),
        pytest.param(
            """
import asyncio, drawdown
async def main():
    client = drawdown.AsyncClient({target!r})
    for _ in range(50):
        await client.commit(wallet_id="demo", hold_id="h", amounts={{"USD": 5}})
    print("done")
asyncio.run(main())
""",
            id="async",
        ),
    ],
)
def test_a_program_ends_quietly_without_closing_its_client(fake: FakeDrawdown, program: str) -> None:
    fake.answer("Commit", ANSWER)
    assert run(program.format(target=fake.target)) == ("done\n", "")


def run(program: str) -> tuple[str, str]:
    """What a program of its own writes, to both outputs."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=2 * WAIT_S,
        check=True,
    )
    return done.stdout, done.stderr
