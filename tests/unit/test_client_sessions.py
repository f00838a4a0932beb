"""When calls go over Sessions, and that none waits for one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any, Final

import pytest

import drawdown
from drawdown import _session_thread
from drawdown._sessions import BUSY_AT, BYTES_MAX
from fake_drawdown import THREADS, WAIT_S, FakeDrawdown, committed

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
