"""What a run draws: arrivals, wallets, flows, amounts; the same however many processes share them."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from drawdown.load.mix import Flow, MixError, parse_mix
from drawdown.load.plan import Arrivals, Loop, Plan, Price, Replay, Request, requests
from drawdown.load.shape import parse_shape
from drawdown.load.trace import TraceError, TraceRow, arrivals
from drawdown.load.wallets import names

if TYPE_CHECKING:
    from collections.abc import Sequence

ROWS = [
    TraceRow(100, 10, "2023-11-16 18:15:46.6805900"),
    TraceRow(200, 2_000, "2023-11-16 18:15:50.6805900"),
    TraceRow(300, 0, "2023-11-16T18:15:56.68059Z"),
]


def plan(**others: object) -> Plan:
    settings: dict[str, object] = {
        "run_id": "load-1",
        "loop": Loop.OPEN,
        "shape": parse_shape("200", 50),
        "duration_s": 50.0,
        "wallets": names("load", 10),
        "skew": 1.0,
        "mix": parse_mix("commit=90,release=10"),
        "held": {"USD": 1_000},
        "used_percent": (20, 100),
        "think_s": 0.0,
        "ttl_s": None,
        "in_flight_max": 100,
        "processes": 1,
        "seed": 7,
        "settle_s": 10.0,
    }
    return Plan(**(settings | others))  # type: ignore[arg-type]


def drawn(of: Plan) -> list[Request]:
    return list(requests(of, 0))


def gaps(found: Sequence[Request]) -> list[float]:
    return [later.start_s - earlier.start_s for earlier, later in itertools.pairwise(found)]


def test_constant_arrivals_are_evenly_spaced() -> None:
    found = drawn(plan(arrivals=Arrivals.CONSTANT))
    assert len(found) in {10_000, 10_001}  # the last one falls on the end
    assert found[0].start_s == 0
    assert gaps(found) == pytest.approx([1 / 200] * (len(found) - 1))


def test_poisson_arrivals_come_at_the_rate_in_bunches_and_with_gaps() -> None:
    found = drawn(plan(arrivals=Arrivals.POISSON))
    assert len(found) == pytest.approx(10_000, rel=0.05)
    between = gaps(found)
    assert statistics.mean(between) == pytest.approx(1 / 200, rel=0.05)
    assert statistics.stdev(between) == pytest.approx(1 / 200, rel=0.1)  # an exponential's is its mean


def test_a_rising_rate_rises() -> None:
    found = drawn(plan(shape=parse_shape("0..400", 50), arrivals=Arrivals.CONSTANT))
    first = sum(request.start_s < 25 for request in found)
    assert first / len(found) == pytest.approx(1 / 4, rel=0.01)


def test_a_warm_up_comes_before_zero() -> None:
    found = drawn(plan(warmup_s=10.0, arrivals=Arrivals.CONSTANT))
    assert found[0].start_s == -10
    assert sum(request.start_s < 0 for request in found) == pytest.approx(200 * 7.5, abs=2)
    assert max(request.start_s for request in found) <= 50


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_however_many_processes_share_it_a_plan_is_the_same(processes: int) -> None:
    shared = [list(requests(plan(processes=processes), number)) for number in range(processes)]
    assert sorted(itertools.chain(*shared), key=lambda request: request.number) == drawn(plan())
    assert max(map(len, shared)) - min(map(len, shared)) <= 1


def test_a_seed_decides_everything() -> None:
    assert drawn(plan()) == drawn(plan())
    assert drawn(plan()) != drawn(plan(seed=8))


def test_the_skew_is_zipfs() -> None:
    often = Counter(request.wallet_id for request in drawn(plan(shape=parse_shape("2000", 50))))
    for rank in (2, 3, 10):
        ratio = often["load-00001"] / often[f"load-{rank:05d}"]
        assert ratio == pytest.approx(rank, rel=0.1)


def test_without_skew_all_wallets_are_alike() -> None:
    often = Counter(request.wallet_id for request in drawn(plan(skew=0.0, shape=parse_shape("2000", 50))))
    assert min(often.values()) == pytest.approx(max(often.values()), rel=0.1)


def test_flows_come_by_their_shares() -> None:
    mix = parse_mix("commit=6,release=3,balance=1")
    often = Counter(request.flow for request in drawn(plan(mix=mix)))
    assert {flow: count / often.total() for flow, count in often.items()} == {
        Flow.COMMIT: pytest.approx(0.6, rel=0.1),
        Flow.RELEASE: pytest.approx(0.3, rel=0.1),
        Flow.BALANCE: pytest.approx(0.1, rel=0.1),
    }


def test_a_commit_uses_a_part_of_what_was_held() -> None:
    used = [request.used["USD"] for request in drawn(plan())]
    assert (min(used), max(used)) == (200, 1_000)
    assert all(request.used["USD"] == 600 for request in drawn(plan(used_percent=(60, 60))))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no flow ''; there are commit, release, hold, charge, balance"),
        ("commit", "share of commit must be a whole number, 1 .. 1000000"),
        ("commit=0", "share of commit must be"),
        ("commit=1.5", "share of commit must be"),
        ("debit=1", "there is no flow 'debit'"),
        ("commit=1,commit=2", "commit is given twice"),
    ],
)
def test_says_what_is_wrong_with_a_mix(text: str, message: str) -> None:
    with pytest.raises(MixError, match=message):
        parse_mix(text)


def test_a_closed_loop_has_requests_without_end() -> None:
    found = itertools.islice(requests(plan(loop=Loop.CLOSED, shape=parse_shape("5", 1)), 0), 100_000)
    assert {request.start_s for request in found} == {0.0}


# --- traces ---


def replay(speed: float = 1.0) -> Replay:
    return Replay("trace.csv", ROWS, speed, {"USD": Price(3, 15), "TOKENS": Price(1, 1)})


@pytest.mark.parametrize(("speed", "times"), [(1, [0, 4, 10]), (10, [0, 0.4, 1]), (100, [0, 0.04, 0.1])])
def test_a_trace_comes_at_its_own_times(speed: float, times: list[float]) -> None:
    assert [request.start_s for request in drawn(plan(shape=None, replay=replay(speed)))] == pytest.approx(times)


def test_a_trace_holds_what_it_may_cost_and_uses_what_it_cost() -> None:
    found = drawn(plan(shape=None, replay=replay()))
    assert [dict(request.held) for request in found] == [
        {"USD": 300 + 15 * 1_024, "TOKENS": 100 + 1_024},
        {"USD": 600 + 15 * 2_048, "TOKENS": 200 + 2_048},
        {"USD": 900 + 15 * 1_024, "TOKENS": 300 + 1_024},
    ]
    assert [dict(request.used) for request in found] == [
        {"USD": 450, "TOKENS": 110},
        {"USD": 30_600, "TOKENS": 2_200},
        {"USD": 900, "TOKENS": 300},
    ]


def test_with_a_rate_a_trace_gives_only_its_amounts() -> None:
    found = drawn(plan(shape=parse_shape("1", 2), arrivals=Arrivals.CONSTANT, replay=replay()))
    assert [request.start_s for request in found] == [0, 1, 2]
    assert found[1].used["TOKENS"] == 2_200


@pytest.mark.parametrize(
    ("timestamp", "message"),
    [
        ("soon", "request 2 of the trace: TIMESTAMP 'soon' is no time in ISO 8601"),
        ("2023-11-16 18:15:46", "request 2 of the trace: TIMESTAMP 2023-11-16 18:15:46 is earlier than the one before"),
    ],
)
def test_says_what_is_wrong_with_the_times_of_a_trace(timestamp: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        arrivals([ROWS[0], dataclasses.replace(ROWS[1], timestamp=timestamp)], 1)


@pytest.mark.parametrize(
    ("duration_s", "interval_s"), [(3, 0.1), (30, 0.5), (31, 1), (600, 1), (601, 2), (7_200, 12), (86_400, 144)]
)
def test_a_plot_has_a_number_of_points_that_can_be_seen(duration_s: float, interval_s: float) -> None:
    assert plan(duration_s=duration_s).interval_s == interval_s
    assert duration_s / interval_s <= 600
