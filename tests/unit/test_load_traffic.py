"""What one process sends, to a client that answers as the test says: places in flight, lost answers, stops, bugs."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import grpc
import pytest

import drawdown
from drawdown.load import owed, traffic
from drawdown.load.mix import parse_mix
from drawdown.load.plan import Arrivals, Loop
from drawdown.load.recording import NS, Call, Outcome, Recording
from drawdown.load.shape import parse_shape
from drawdown.load.traffic import Traffic
from unit.load_results import plan_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from drawdown.load.plan import Plan

LOST = drawdown.UnavailableError("gone", code=grpc.StatusCode.UNAVAILABLE)
REFUSED = drawdown.PermissionDeniedError("no", code=grpc.StatusCode.PERMISSION_DENIED, reason="PERMISSION_DENIED")


def hold() -> drawdown.Hold:
    return drawdown.Hold(
        wallet_id="w-1",
        hold_id="h",
        state=drawdown.HoldState.HELD,
        amounts={},
        create_time=None,
        expire_time=None,
        settle_time=None,
        subjects=(),
        overage_policy=drawdown.OveragePolicy.UNSPECIFIED,
        expiry_action=drawdown.ExpiryAction.UNSPECIFIED,
        labels={},
        hold_token=b"token",
    )


class Client:
    """Stands in for ``AsyncClient``: approves everything, but first fails as often as it is told to."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.failures: dict[str, deque[Exception]] = {}
        self.open = asyncio.Event()
        """Nothing is answered before it is set."""
        self.open.set()
        self.at_once = 0
        self.at_once_most = 0

    def methods(self) -> list[str]:
        return [method for method, _ in self.sent]

    async def _answer(self, method: str, arguments: dict[str, Any]) -> None:
        self.sent.append((method, arguments))
        self.at_once += 1
        self.at_once_most = max(self.at_once, self.at_once_most)
        try:
            await self.open.wait()
        finally:
            self.at_once -= 1
        if self.failures.get(method):
            raise self.failures[method].popleft()

    async def authorize(self, **arguments: Any) -> drawdown.Authorization:  # noqa: ANN401
        await self._answer("authorize", arguments)
        return drawdown.Authorization(drawdown.Decision.APPROVED, "h", None, hold(), {}, False, 0)  # noqa: FBT003

    async def commit(self, **arguments: Any) -> drawdown.CommitResult:  # noqa: ANN401
        await self._answer("commit", arguments)
        return drawdown.CommitResult(hold(), arguments["amounts"], {}, {}, {}, 1, late=False, replayed=False)

    async def release(self, **arguments: Any) -> drawdown.ReleaseResult:  # noqa: ANN401
        await self._answer("release", arguments)
        return drawdown.ReleaseResult(hold(), {}, replayed=False)

    async def charge(self, **arguments: Any) -> drawdown.ChargeResult:  # noqa: ANN401
        await self._answer("charge", arguments)
        return drawdown.ChargeResult(
            drawdown.Decision.APPROVED, "c", None, hold(), arguments["amounts"], {}, {}, 1, replayed=False
        )


class Run:
    """A run of one process against such a client."""

    def __init__(self, plan: Plan) -> None:
        self.client = Client()
        self.recording = Recording(time.monotonic_ns() + round(plan.warmup_s * NS), round(plan.interval_s * NS))
        self.stop = asyncio.Event()
        self.traffic = Traffic(cast("drawdown.AsyncClient", self.client), plan, 0, self.recording, self.stop)

    async def to_the_end(self) -> Recording:
        await self.traffic.run()
        await self.traffic.settle()
        return self.recording


@pytest.fixture
def run() -> Callable[..., Run]:
    def of(**others: object) -> Run:
        settings: dict[str, object] = {
            "shape": parse_shape("1000", 0.05),
            "duration_s": 0.05,
            "arrivals": Arrivals.CONSTANT,
            "mix": parse_mix("commit=1"),
            "used_percent": (60, 60),
        }
        return Run(plan_of(**(settings | others)))

    return of


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the traffic is another task of this loop
            await asyncio.sleep(0)


async def while_running(run: Run, meanwhile: Coroutine[Any, Any, None]) -> Recording:
    recording, _ = await asyncio.gather(run.to_the_end(), meanwhile)
    return recording


async def test_every_request_is_sent_and_what_was_debited_is_added_up(run: Callable[..., Run]) -> None:
    of = run()
    recording = await of.to_the_end()
    assert of.client.methods().count("authorize") == of.client.methods().count("commit") == 50
    assert recording.debited == {"USD": 50 * 600}
    assert (recording.begun, recording.ended(Outcome.OK)) == (50, 100)
    assert all(arguments["hold_token"] == b"token" for method, arguments in of.client.sent if method == "commit")
    assert len({arguments["hold_id"] for method, arguments in of.client.sent if method == "authorize"}) == 50


async def test_past_the_places_in_flight_a_request_waits_and_its_latency_with_it(run: Callable[..., Run]) -> None:
    of = run(in_flight_max=2)
    of.client.open.clear()

    async def open_when_all_are_due() -> None:
        await until(lambda: time.monotonic_ns() > of.recording.zero_ns + 0.05 * NS)
        assert of.client.at_once == 2
        of.client.open.set()

    recording = await while_running(of, open_when_all_are_due())
    assert of.client.at_once_most == 2
    assert (recording.begun, recording.unsent) == (50, 0)
    assert 0 < recording.held_back <= 48
    authorize = recording.latency()[Call.AUTHORIZE]
    assert authorize.count == 50
    assert authorize.max_ns >= 0.05 * NS  # the first one waited for the answer, the others for their places


async def test_what_could_not_begin_by_the_end_is_said(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "DRAIN_S", 0.0)
    of = run(in_flight_max=2)
    of.client.open.clear()

    async def open_after_the_end() -> None:
        await until(lambda: time.monotonic_ns() > of.recording.zero_ns + 0.06 * NS)
        of.client.open.set()

    recording = await while_running(of, open_after_the_end())
    assert (recording.begun, recording.unsent) == (2, 48)


async def test_a_lost_authorize_is_released_at_the_end(run: Callable[..., Run]) -> None:
    of = run()
    of.client.failures["authorize"] = deque([LOST])
    recording = await of.to_the_end()
    assert recording.errors == {(Call.AUTHORIZE, "UNAVAILABLE", ""): 1}
    assert of.client.sent[-1] == (
        "release",
        {"wallet_id": of.client.sent[0][1]["wallet_id"], "hold_id": "load-1-0", "reason": "end of a load test"},
    )
    assert recording.released_at_end == 1
    assert recording.debited == {"USD": 49 * 600}


@pytest.mark.parametrize("method", ["commit", "charge"])
async def test_a_lost_debit_is_sent_again_at_the_end_until_it_is_answered(
    run: Callable[..., Run], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owed, "PAUSE_S", 0.0)
    of = run(mix=parse_mix(f"{method}=1"))
    of.client.failures[method] = deque([LOST])
    await of.traffic.run()
    of.client.failures[method] = deque([LOST, LOST])
    await of.traffic.settle()
    first = next(arguments for name, arguments in of.client.sent if name == method)
    assert of.client.sent[-3:] == [(method, first)] * 3
    assert of.recording.debited == {"USD": 50 * 600}
    assert (of.recording.sent_again, of.recording.unsettled) == (3, {})


@pytest.mark.parametrize("method", ["authorize", "charge"])
async def test_what_was_refused_holds_nothing_and_owes_nothing(run: Callable[..., Run], method: str) -> None:
    of = run(mix=parse_mix("charge=1" if method == "charge" else "commit=1"))
    of.client.failures[method] = deque([REFUSED])
    recording = await of.to_the_end()
    assert recording.errors.total() == 1
    assert (recording.released_at_end, recording.sent_again, recording.unsettled) == (0, 0, {})


async def test_what_cannot_be_committed_is_at_least_released(run: Callable[..., Run]) -> None:
    of = run(shape=parse_shape("20", 0.05))
    of.client.failures["commit"] = deque([REFUSED, REFUSED])
    recording = await of.to_the_end()
    assert of.client.methods() == ["authorize", "commit", "commit", "release"]
    assert (recording.released_at_end, recording.unsettled, recording.debited) == (1, {}, {})


async def test_what_can_be_neither_is_said(run: Callable[..., Run]) -> None:
    of = run(shape=parse_shape("20", 0.05), mix=parse_mix("release=1"))
    of.client.failures["release"] = deque([REFUSED, REFUSED])
    recording = await of.to_the_end()
    assert recording.unsettled == {"PERMISSION_DENIED PERMISSION_DENIED": 1}


async def test_holds_are_kept_to_the_end_when_that_is_their_flow(run: Callable[..., Run]) -> None:
    of = run(mix=parse_mix("hold=1"))
    recording = await of.to_the_end()
    assert of.client.methods() == ["authorize"] * 50 + ["release"] * 50
    assert recording.released_at_end == 50
    assert Call.RELEASE not in recording.latency()  # these are not what is measured


async def test_a_stop_ends_the_thinking_and_settles(run: Callable[..., Run]) -> None:
    of = run(think_s=600.0, duration_s=600.0, shape=parse_shape("20", 600))

    async def stop_when_one_thinks() -> None:
        await until(lambda: bool(of.client.sent) and of.client.at_once == 0)
        of.stop.set()

    recording = await while_running(of, stop_when_one_thinks())
    assert of.client.methods().count("commit") == recording.begun >= 1
    assert recording.latency()[Call.COMMIT].max_ns < 600 * NS


async def test_a_closed_loop_has_one_request_per_gateway(run: Callable[..., Run]) -> None:
    of = run(loop=Loop.CLOSED, shape=parse_shape("3", 0.5), duration_s=0.5)
    recording = await of.to_the_end()
    assert of.client.at_once_most <= 3
    assert recording.begun > 3


async def test_a_bug_of_ours_is_no_quiet_server(run: Callable[..., Run]) -> None:
    of = run()
    of.client.failures["authorize"] = deque([TypeError("a bug")])
    with pytest.raises(TypeError, match="a bug"):
        await of.traffic.run()


async def test_what_was_noted_is_taken_once(run: Callable[..., Run]) -> None:
    of = run()
    await of.traffic.run()
    taken = of.traffic.take()
    assert taken.begun == 50
    assert of.traffic.take().begun == 0
    assert taken.zero_ns == of.recording.zero_ns
