"""What processes note, merged: nothing is lost, and the warm-up is in no number."""

from __future__ import annotations

import random

from drawdown.load.recording import Call, Outcome, Recording
from unit.load_results import MS, SECOND_NS, ZERO_NS


def noted(calls: list[tuple[int, int, Call, Outcome]]) -> Recording:
    recording = Recording(ZERO_NS, SECOND_NS)
    for due_ms, took_ms, call, outcome in calls:
        due_ns = ZERO_NS + due_ms * MS
        recording.begin(due_ns, 0)
        recording.end(call, due_ns, due_ns + took_ms * MS, outcome)
        recording.debited["USD"] += took_ms
        if outcome is Outcome.FAILED and due_ms >= 0:
            recording.errors[call, "UNAVAILABLE", ""] += 1
    return recording


def test_parts_of_a_run_add_up_to_the_run() -> None:
    dice = random.Random(5)  # noqa: S311 - a test
    calls = [
        (dice.randrange(-1_000, 9_000), dice.randrange(3_000), dice.choice(list(Call)), dice.choice(list(Outcome)))
        for _ in range(2_000)
    ]
    merged = Recording(ZERO_NS, SECOND_NS)
    for part in range(4):
        merged.merge(noted(calls[part::4]))
    assert merged == noted(calls)
    measured = [call for call in calls if call[0] >= 0]
    assert merged.begun == len(measured)
    assert sum(histogram.count for histogram in merged.latency().values()) == len(measured)
    assert sum(merged.ended(outcome) for outcome in Outcome) == len(measured)
    assert merged.debited["USD"] == sum(took for _, took, _, _ in calls)  # money is money, also in the warm-up


def test_the_warm_up_is_not_measured_but_its_errors_are_counted() -> None:
    recording = noted([(-1, 5_000, Call.COMMIT, Outcome.FAILED), (-500, 1, Call.COMMIT, Outcome.OK)])
    assert (recording.begun, recording.latency(), recording.errors.total()) == (0, {}, 0)
    assert recording.warmup_errors == 1


def test_a_latency_stands_where_its_call_was_due_and_its_end_where_it_ended() -> None:
    recording = noted([(900, 1_200, Call.AUTHORIZE, Outcome.OK)])
    assert list(recording.intervals[0].latency) == [Call.AUTHORIZE]
    assert recording.intervals[0].begun == 1
    assert recording.intervals[2].ended == {(Call.AUTHORIZE, Outcome.OK): 1}
