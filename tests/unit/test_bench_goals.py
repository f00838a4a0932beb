"""The table of speed: ratios of rounds, verdicts, and what is said of rows that were not measured."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys

from bench.load.generator import Calls, Result
from bench.table.counters import cpu_s, process, read_all, used
from bench.table.goals import GOALS, verdicts
from bench.table.report import as_json, as_text
from bench.table.rounds import Rounds
from bench.table.rows import Found, Row
from bench.table.samples import CORES, Sample, Samples, Spread, busy

BARE = Result.of_calls(1_000, 1_000, 1.0)


def sample(rate: float = 1_000, p50_us: float = 100, **numbers: float) -> Sample:
    result = dataclasses.replace(BARE, seconds=BARE.calls / rate, p50_us=p50_us, p99_us=2 * p50_us)
    return Sample(result, numbers, busy(result, numbers))


def rounds(*of: dict[str, Sample]) -> Samples:
    samples = Samples()
    samples.rounds = list(of)
    return samples


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    samples = rounds(
        {"session c32": sample(3_000), "authorize c32": sample(1_000)},
        {"session c32": sample(2_500), "authorize c32": sample(1_000)},
        {"session c32": sample(100), "authorize c32": sample(50)},  # the machine was busy
    )
    (verdict,) = verdicts(samples)
    assert verdict.value == Spread(2.5, 0.5)
    assert verdict.goal.name == "Session, calls/s: of unary's, 32 at once"
    assert verdict.text == ""


def test_a_goal_that_is_missed_falls_short_and_one_below_the_floor_is_out_of_reach() -> None:
    def stream(store_us: float) -> Samples:
        rows = {"session c1": 400.0, "echo c1": 400.0, "stream echo c1": 100.0, "fcall c1": store_us}
        return rounds({row: sample(p50_us=p50_us) for row, p50_us in rows.items()})

    (reachable,), (beyond,) = verdicts(stream(100)), verdicts(stream(300))
    assert (reachable.best, reachable.text) == (Spread(0.5, 0.0), "falls short")
    assert (beyond.best, beyond.text) == (Spread(1.0, 0.0), "out of reach here")


def test_goals_whose_rows_were_not_measured_are_left_out() -> None:
    assert verdicts(rounds({"session c32": sample()})) == []
    assert verdicts(rounds()) == []
    everything = {row: sample(wallet_bytes=2_000, hold_bytes=1, oldest_ms=5) for goal in GOALS for row in goal.rows}
    assert len(verdicts(rounds(everything))) == len(GOALS)


async def test_a_row_that_fails_is_left_out_of_all_rounds_and_named() -> None:
    attempts = 0

    async def works(_: Calls) -> Found:
        return Found(BARE, {"some": 1})

    async def fails(_: Calls) -> Found:
        nonlocal attempts
        attempts += 1
        if attempts > 1:
            raise RuntimeError("3 of 10 calls were not answered as they should be")
        return Found(BARE)

    rows = [Row("works", works), Row("fails", fails)]
    measured, measuring = Samples(), Rounds(100)
    for _ in range(3):
        measured.rounds.append(await measuring.one(rows))
    measured.leave_out(measuring.failed)
    assert measured.rows == ["works"]
    assert [dict(each["works"].used) for each in measured.rounds] == [{"some": 1}] * 3
    assert measuring.failed == {"fails": "3 of 10 calls were not answered as they should be"}
    assert attempts == 2


async def test_no_two_runs_have_a_call_in_common_and_a_batch_has_whole_messages() -> None:
    seen: list[Calls] = []

    async def run(calls: Calls) -> Found:
        seen.append(calls)
        return Found(None)

    measuring = Rounds(1_000)
    await measuring.one([Row("usual", run), Row("alone", run, concurrency=1), Row("batch", run, times=2, batch=32)])
    await measuring.one([Row("commit", run, before=run)])
    assert [calls.count for calls in seen] == [1_000, 250, 62 * 32, 1_000, 1_000]
    ranges = [(calls.first, calls.first + calls.count) for calls in seen]
    assert ranges[3] == ranges[4]  # what is committed was authorized before
    assert all(end == first for (_, end), (first, _) in itertools.pairwise(ranges[:4]))


def test_figures_have_goals_too() -> None:
    samples = rounds({"memory, assets 1": Sample(None, {"wallet_bytes": 1_500, "hold_bytes": 399})})
    assert [verdict.text for verdict in verdicts(samples)] == ["falls short", ""]


def test_the_oldest_event_is_told_with_the_rate_that_was_reached() -> None:
    (verdict,) = verdicts(rounds({"commits at 5,000/s": sample(1_234, oldest_ms=99)}))
    assert (verdict.note, verdict.text) == ("at 1,234 commits/s", "")


def test_what_limits_a_row_is_the_busiest_process_if_it_was_busy_enough() -> None:
    assert sample(server_cpu_s=0.9, store_cpu_s=0.95).limit == "store"
    assert Sample(None, busy={f"worker {number}": 0.84 for number in range(CORES)}).limit == "-"
    assert Sample(None, busy={f"worker {number}": 0.84 for number in range(CORES + 1)}).limit == "cores"
    assert Sample(None).limit == "-"


def test_the_table_has_a_line_for_each_row_that_calls_something_and_each_goal() -> None:
    samples = rounds(
        {
            "authorize c32": sample(800, 1_500, server_cpu_s=1.2, store_cpu_s=0.1),
            "echo c32": sample(1_000, 900, server_cpu_s=0.5),
            "memory, assets 1": Sample(None, {"wallet_bytes": 500, "hold_bytes": 250}),
        }
    )
    lines = as_text(samples).splitlines()
    assert [line.split()[-8:] for line in lines[1:3]] == [
        ["0%", "1500", "3000", "-", "1200", "100", "-", "server"],
        ["0%", "900", "1800", "-", "500", "-", "-", "-"],
    ]
    assert "0.80 ±0.00   (goal >= 0.8)" in lines[4]
    assert len([line for line in lines if "goal" in line]) == 3


def test_the_json_has_every_run_and_every_verdict() -> None:
    samples = rounds(
        {"memory, assets 1": Sample(None, {"wallet_bytes": 500, "hold_bytes": 450})},
        {
            "memory, assets 1": Sample(None, {"wallet_bytes": 500, "hold_bytes": 450}),
        },
    )
    written = json.loads(as_json(samples))
    assert len(written["rows"]["memory, assets 1"]) == 2
    assert written["goals"]["bytes per open hold of 1 asset"] == {
        "median": 450,
        "half_range": 0,
        "bound": 400,
        "is_least": False,
        "best": None,
        "is_met": False,
    }


def test_a_process_is_charged_for_its_children() -> None:
    work = "sum(range(20_000_000))"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{work}']); print(); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert cpu_s(parent.pid) > 0.1
        parent.communicate()


async def test_what_was_used_is_by_how_much_every_counter_grew() -> None:
    before = await read_all((process("one", os.getpid()), process("other", os.getpid())))
    assert all(value > 0 for value in before.values())
    assert used({"one_cpu_s": 1.5, "other_cpu_s": 1.0}, {"one_cpu_s": 3.5, "other_cpu_s": 1.0}) == {
        "one_cpu_s": 2,
        "other_cpu_s": 0,
    }
    assert before.keys() == {"one_cpu_s", "other_cpu_s"}
