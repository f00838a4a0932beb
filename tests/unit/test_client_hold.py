"""`client.hold(...)`: what is owed when the body ends, however it ends."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING

import grpc
import pytest

import drawdown
from drawdown.v1 import authorization_service_pb2
from fake_drawdown import (
    WAIT_S,
    Failure,
    FakeDrawdown,
    approved,
    committed,
    denied,
    hold_message,
    released,
)
from transports import transport  # noqa: F401 - every test over both transports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

DOWN = Failure(grpc.StatusCode.INTERNAL, "the store is gone", "INTERNAL")


@pytest.fixture
def fake() -> Iterator[FakeDrawdown]:
    with FakeDrawdown() as server:
        server.answer("Authorize", approved({"USD": 500}))
        server.answer("Commit", committed({"USD": 500}, {"USD": 200}))
        server.answer("Release", released())
        yield server


class BodyError(Exception):
    """What a body raises."""


async def test_a_committed_hold_is_not_released(fake: FakeDrawdown) -> None:
    async with drawdown.AsyncClient(fake.target) as client:
        async with client.hold(wallet_id="demo", amounts={"USD": 500}, hold_id="req_1", ttl_s=60) as hold:
            assert hold.hold.state is drawdown.HoldState.HELD
            assert hold.authorization.approved
            result = await hold.commit({"USD": 200})
        assert result.debited == {"USD": 200}
        assert hold.hold.state is drawdown.HoldState.COMMITTED
    commit = fake.calls("Commit")[0].request
    assert (commit.wallet_id, commit.hold_id, commit.hold_token) == ("demo", "req_1", b"token")
    assert fake.calls("Authorize")[0].request.ttl.seconds == 60
    assert not fake.calls("Release")


def test_a_committed_hold_is_not_released_sync(fake: FakeDrawdown) -> None:
    with drawdown.Client(fake.target) as client:
        with client.hold(wallet_id="demo", amounts={"USD": 500}) as hold:
            result = hold.commit({"USD": 200})
        assert result.debited == {"USD": 200}
        assert hold.hold.state is drawdown.HoldState.COMMITTED
    assert fake.calls("Commit")[0].request.hold_id == fake.calls("Authorize")[0].request.hold_id
    assert not fake.calls("Release")


async def test_every_commit_of_a_hold_has_its_last_token(fake: FakeDrawdown) -> None:
    progress = committed({"USD": 500}, {"USD": 200})
    progress.hold.hold_token = b""
    fake.answer("Commit", progress)
    raised = authorization_service_pb2.ExtendResponse(decision="DECISION_APPROVED", hold=hold_message({"USD": 900}))
    raised.hold.hold_token = b"raised"
    fake.answer("Extend", raised)
    async with (
        drawdown.AsyncClient(fake.target) as client,
        client.hold(wallet_id="demo", amounts={"USD": 500}) as hold,
    ):
        await hold.commit({"USD": 100}, final=False)
        await hold.commit({"USD": 200}, final=False)
        await hold.extend(amounts={"USD": 900})
        await hold.commit({"USD": 300}, final=False)
        raised.decision, raised.hold.hold_token = "DECISION_DENIED", b""
        fake.answer("Extend", raised)
        await hold.extend(amounts={"USD": 9_000})
        await hold.commit({"USD": 400})
    tokens = [arrived.request.hold_token for arrived in fake.calls("Commit")]
    assert tokens == [b"token", b"token", b"raised", b"raised"]


async def test_a_body_that_raises_releases(fake: FakeDrawdown) -> None:
    async with drawdown.AsyncClient(fake.target) as client:
        with pytest.raises(BodyError):
            async with client.hold(wallet_id="demo", amounts={"USD": 500}, hold_id="req_1"):
                raise BodyError
        assert fake.calls("Release")[0].request.hold_id == "req_1"  # before the error reached us


def test_a_body_that_raises_releases_sync(fake: FakeDrawdown) -> None:
    with (
        drawdown.Client(fake.target) as client,
        pytest.raises(BodyError),
        client.hold(wallet_id="demo", amounts={"USD": 500}, hold_id="req_1"),
    ):
        raise BodyError
    assert fake.calls("Release")[0].request.hold_id == "req_1"


async def test_a_body_that_never_commits_releases(fake: FakeDrawdown) -> None:
    async with drawdown.AsyncClient(fake.target) as client, client.hold(wallet_id="demo", amounts={"USD": 500}):
        pass
    assert len(fake.calls("Release")) == 1


def test_a_body_that_never_commits_releases_sync(fake: FakeDrawdown) -> None:
    with drawdown.Client(fake.target) as client, client.hold(wallet_id="demo", amounts={"USD": 500}):
        pass
    assert len(fake.calls("Release")) == 1


async def test_a_release_in_the_body_is_the_only_one(fake: FakeDrawdown) -> None:
    async with (
        drawdown.AsyncClient(fake.target) as client,
        client.hold(wallet_id="demo", amounts={"USD": 500}) as hold,
    ):
        await hold.release("not needed")
    assert [arrived.request.reason for arrived in fake.calls("Release")] == ["not needed"]


def test_a_release_in_the_body_is_the_only_one_sync(fake: FakeDrawdown) -> None:
    with drawdown.Client(fake.target) as client, client.hold(wallet_id="demo", amounts={"USD": 500}) as hold:
        hold.release("not needed")
    assert [arrived.request.reason for arrived in fake.calls("Release")] == ["not needed"]


async def test_a_denial_raises_and_the_body_does_not_run(fake: FakeDrawdown) -> None:
    fake.answer("Authorize", denied())
    async with drawdown.AsyncClient(fake.target) as client:
        with pytest.raises(drawdown.Denied, match=r"INSUFFICIENT_FUNDS \(100 units of USD needed, 7 ") as caught:
            async with client.hold(wallet_id="demo", amounts={"USD": 100}):
                pytest.fail("the body ran")
    assert caught.value.authorization.denial is not None
    assert caught.value.authorization.denial.available_units == 7
    assert not fake.calls("Release")


def test_a_denial_raises_and_the_body_does_not_run_sync(fake: FakeDrawdown) -> None:
    fake.answer("Authorize", denied("WALLET_NOT_FOUND", asset=""))
    with (
        drawdown.Client(fake.target) as client,
        pytest.raises(drawdown.Denied, match=r"denied: WALLET_NOT_FOUND$"),
        client.hold(wallet_id="demo", amounts={"USD": 100}),
    ):
        pytest.fail("the body ran")
    assert not fake.calls("Release")


async def test_a_failed_release_hides_nothing(fake: FakeDrawdown, caplog: pytest.LogCaptureFixture) -> None:
    fake.answer("Release", DOWN)
    async with drawdown.AsyncClient(fake.target) as client:
        with pytest.raises(BodyError):
            async with client.hold(wallet_id="demo", amounts={"USD": 500}, hold_id="req_1"):
                raise BodyError
    assert "hold req_1 of wallet demo was not released" in caplog.text


def test_a_failed_release_hides_nothing_sync(fake: FakeDrawdown, caplog: pytest.LogCaptureFixture) -> None:
    fake.answer("Release", DOWN)
    with (
        drawdown.Client(fake.target) as client,
        pytest.raises(BodyError),
        client.hold(wallet_id="demo", amounts={"USD": 500}, hold_id="req_1"),
    ):
        raise BodyError
    assert "hold req_1 of wallet demo was not released" in caplog.text


async def test_a_failed_commit_keeps_the_hold_for_another_try(
    fake: FakeDrawdown, caplog: pytest.LogCaptureFixture
) -> None:
    fake.answer("Commit", DOWN)
    async with drawdown.AsyncClient(fake.target) as client:
        with pytest.raises(drawdown.InternalError):
            async with client.hold(wallet_id="demo", amounts={"USD": 500}, hold_id="req_1") as hold:
                await hold.commit({"USD": 200})
        assert "hold req_1 of wallet demo was not committed" in caplog.text
        assert not fake.calls("Release")
        fake.answer("Commit", committed({"USD": 500}, {"USD": 200}))
        assert (await hold.commit({"USD": 200})).hold.state is drawdown.HoldState.COMMITTED


def test_a_failed_commit_keeps_the_hold_for_another_try_sync(fake: FakeDrawdown) -> None:
    fake.answer("Commit", DOWN, committed({"USD": 500}, {"USD": 200}))
    with drawdown.Client(fake.target) as client, client.hold(wallet_id="demo", amounts={"USD": 500}) as hold:
        with pytest.raises(drawdown.InternalError):
            hold.commit({"USD": 200})
        assert hold.commit({"USD": 200}).hold.state is drawdown.HoldState.COMMITTED
    assert not fake.calls("Release")


async def test_a_cancelled_body_releases(fake: FakeDrawdown) -> None:
    entered = asyncio.Event()

    async def work(client: drawdown.AsyncClient) -> None:
        async with client.hold(wallet_id="demo", amounts={"USD": 500}, hold_id="req_1"):
            entered.set()
            await asyncio.Event().wait()

    async with drawdown.AsyncClient(fake.target) as client:
        task = asyncio.create_task(work(client))
        await asyncio.wait_for(entered.wait(), WAIT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(fake.calls("Release")) == 1


async def test_a_second_cancellation_does_not_stop_the_release(fake: FakeDrawdown) -> None:
    entered, may_release = asyncio.Event(), threading.Event()

    def release(_: Message) -> Message:
        may_release.wait(WAIT_S)
        return released()

    fake.answer("Release", release)

    async def work(client: drawdown.AsyncClient) -> None:
        async with client.hold(wallet_id="demo", amounts={"USD": 500}, hold_id="req_1"):
            entered.set()
            await asyncio.Event().wait()

    async with drawdown.AsyncClient(fake.target, timeout_s=WAIT_S) as client:
        task = asyncio.create_task(work(client))
        await asyncio.wait_for(entered.wait(), WAIT_S)
        task.cancel()
        await asyncio.to_thread(fake.wait_for, "Release")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task  # at once, though the release still waits
        [owed] = client._background
        may_release.set()
    assert owed.done()  # closing waited for it
    assert owed.exception() is None


@pytest.mark.parametrize(("hold_id", "releases"), [(None, 1), ("req_1", 0)])
async def test_cancelled_while_authorizing(fake: FakeDrawdown, hold_id: str | None, releases: int) -> None:
    stuck = threading.Event()

    def authorize(_: Message) -> Message:
        stuck.wait(WAIT_S)
        return approved({"USD": 500})

    fake.answer("Authorize", authorize)

    async def work(client: drawdown.AsyncClient) -> None:
        async with client.hold(wallet_id="demo", amounts={"USD": 500}, hold_id=hold_id):
            pytest.fail("the body ran")

    async with drawdown.AsyncClient(fake.target, timeout_s=WAIT_S) as client:
        task = asyncio.create_task(work(client))
        try:
            [arrived] = await asyncio.to_thread(fake.wait_for, "Authorize")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        finally:
            stuck.set()
    sent = [call.request.hold_id for call in fake.calls("Release")]
    assert sent == [arrived.request.hold_id] * releases


async def test_a_client_closed_inside_the_body_is_logged(fake: FakeDrawdown, caplog: pytest.LogCaptureFixture) -> None:
    client = drawdown.AsyncClient(fake.target)
    with caplog.at_level(logging.WARNING, logger="drawdown"):
        async with client.hold(wallet_id="demo", amounts={"USD": 500}, hold_id="req_1"):
            await client.close()
    assert "this client is closed" in caplog.text


async def test_a_context_is_entered_once(fake: FakeDrawdown) -> None:
    async with drawdown.AsyncClient(fake.target) as client:
        context = client.hold(wallet_id="demo", amounts={"USD": 500})
        with pytest.raises(RuntimeError, match="enter the context first"):
            _ = context.hold
        with pytest.raises(RuntimeError, match="enter the context first"):
            await context.commit({"USD": 1})
        async with context:
            pass
        with pytest.raises(RuntimeError, match="entered once"):
            async with context:
                pass


def progress() -> authorization_service_pb2.CommitResponse:
    return authorization_service_pb2.CommitResponse(hold=hold_message({"USD": 500}, debited={"USD": 200}))


async def test_after_progress_that_arrived_the_rest_is_released(fake: FakeDrawdown) -> None:
    fake.answer("Commit", progress())
    async with drawdown.AsyncClient(fake.target) as client:
        with pytest.raises(BodyError):
            async with client.hold(wallet_id="demo", amounts={"USD": 500}) as hold:
                await hold.commit({"USD": 200}, final=False)
                assert hold.hold.state is drawdown.HoldState.HELD
                raise BodyError
    assert [call.request.final for call in fake.calls("Commit")] == [False]
    assert len(fake.calls("Release")) == 1


def test_after_progress_that_arrived_the_rest_is_released_sync(fake: FakeDrawdown) -> None:
    fake.answer("Commit", progress())
    with (
        drawdown.Client(fake.target) as client,
        pytest.raises(BodyError),
        client.hold(wallet_id="demo", amounts={"USD": 500}) as hold,
    ):
        hold.commit({"USD": 200}, final=False)
        raise BodyError
    assert len(fake.calls("Release")) == 1


async def test_after_progress_that_failed_the_hold_is_kept(fake: FakeDrawdown) -> None:
    fake.answer("Commit", progress(), DOWN)
    async with drawdown.AsyncClient(fake.target) as client:
        with pytest.raises(drawdown.InternalError):
            async with client.hold(wallet_id="demo", amounts={"USD": 500}) as hold:
                await hold.commit({"USD": 200}, final=False)
                await hold.commit({"USD": 300}, final=False)
    assert not fake.calls("Release")


async def test_a_stream_in_progress_reports_and_a_final_commit(fake: FakeDrawdown) -> None:
    fake.answer("Commit", progress(), committed({"USD": 500}, {"USD": 300}))
    fake.answer(
        "Extend",
        authorization_service_pb2.ExtendResponse(decision="DECISION_APPROVED", hold=hold_message({"USD": 900})),
    )
    async with drawdown.AsyncClient(fake.target) as client:
        async with client.hold(wallet_id="demo", amounts={"USD": 500}, hold_id="req_1") as hold:
            await hold.commit({"USD": 200}, final=False)
            assert await hold.extend(ttl_s=60, amounts={"USD": 900})
            assert hold.hold.amounts["USD"].authorized_units == 900
            await hold.commit({"USD": 300})
        assert hold.hold.state is drawdown.HoldState.COMMITTED
    assert (fake.calls("Extend")[0].request.hold_id, fake.calls("Extend")[0].request.ttl.seconds) == ("req_1", 60)
    assert not fake.calls("Release")


def test_extending_sync(fake: FakeDrawdown) -> None:
    fake.answer(
        "Extend",
        authorization_service_pb2.ExtendResponse(decision="DECISION_APPROVED", hold=hold_message({"USD": 900})),
    )
    with drawdown.Client(fake.target) as client, client.hold(wallet_id="demo", amounts={"USD": 500}) as hold:
        assert hold.extend(amounts={"USD": 900})
        hold.commit({"USD": 300})
    assert not fake.calls("Release")


async def test_a_denial_by_a_cap_says_which(fake: FakeDrawdown) -> None:
    answer = denied("CAP_EXCEEDED")
    answer.denial.cap.asset, answer.denial.cap.cap_subject = "USD", "key:*"
    answer.denial.cap.limit_units, answer.denial.cap.used_units = 100, 60
    fake.answer("Authorize", answer)
    async with drawdown.AsyncClient(fake.target) as client:
        with pytest.raises(drawdown.Denied, match=r"CAP_EXCEEDED \(60 of 100 units of USD used under the cap key:\*\)"):
            async with client.hold(wallet_id="demo", amounts={"USD": 500}):
                raise AssertionError("the body must not run")
