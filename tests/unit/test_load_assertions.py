"""What a pipeline may demand of a run, and what it is told when it demands nonsense."""

from __future__ import annotations

import re

import pytest

from drawdown.load.assertions import AssertionSyntaxError, parse
from drawdown.load.histogram import Histogram
from drawdown.load.recording import Call, Outcome
from unit.load_results import recording_of, result_of

# 990 calls of 2 ms, nine of 20 ms and one of 200 ms; then ten Commits of 5 ms, of which one was denied and two failed
RECORDING = recording_of([2] * 990 + [20] * 9 + [200])
RECORDING.merge(recording_of([5] * 7, call=Call.COMMIT))
RECORDING.merge(recording_of([5], call=Call.COMMIT, outcome=Outcome.DENIED))
RECORDING.merge(recording_of([5] * 2, call=Call.COMMIT, outcome=Outcome.FAILED))
RECORDING.denials[Call.COMMIT, "CAP_EXCEEDED"] = 1
RECORDING.errors[Call.COMMIT, "UNAVAILABLE", ""] = 2
RECORDING.unsent = 3
RECORDING.start_lag = Histogram()
for lag_ms in (0, 0, 0, 6):
    RECORDING.start_lag.add(lag_ms * 1_000_000)
RESULT = result_of(RECORDING)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("p50<2.01ms", True),
        ("authorize.p50 <= 2001us", True),
        ("p99<6ms", True),
        ("authorize.p99<2.01ms", True),
        ("authorize.p99.9 < 20.02ms", True),
        ("authorize.p99.9 < 20ms", False),
        ("p99.99 >= 0.2s", True),
        ("max<200ms", False),
        ("max<=200ms", True),
        ("commit.max == 5ms", True),
        ("mean<3ms", True),
        ("mean<2ms", False),
        ("calls==1010", True),
        ("commit.calls==10", True),
        ("rate>=101", True),
        ("rate>101", False),
        ("authorize.rate>=99", True),
        ("errors==0", False),
        ("errors<=2", True),
        ("authorize.errors==0", True),
        ("commit.error_rate<=20%", True),
        ("error_rate<0.1%", False),
        ("denials<1", False),
        ("commit.denial_rate==10%", True),
        ("late_starts<=25%", True),
        ("late_starts<25%", False),
        ("unsent==0", False),
    ],
)
def test_an_assertion_holds_or_does_not(text: str, holds: bool) -> None:
    judged = parse(text).judge(RESULT)
    assert (judged.holds, judged.text) == (holds, text), judged.value


def test_what_it_was_is_said_in_the_units_of_the_metric() -> None:
    assert parse("authorize.p99.99<1s").judge(RESULT).value == "200.000 ms"
    assert parse("commit.error_rate<1%").judge(RESULT).value == "20%"
    assert parse("calls>0").judge(RESULT).value == "1,010"


def test_of_a_call_that_was_not_made_nothing_can_be_said() -> None:
    judged = parse("release.p99<1s").judge(RESULT)
    assert (judged.holds, judged.value) == (False, "no such call was made")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no assertion such as p99<5ms, authorize.p99.9<=20ms or errors==0"),
        ("p99", "'p99' is no assertion"),
        ("p99=5ms", "'p99=5ms' is no assertion"),
        ("p99<-5ms", "is no assertion"),
        ("p99<5ms and errors==0", "is no assertion"),
        ("p99<5", "'p99<5': p99 is a time: give it a unit, us, ms or s"),
        ("max<5%", "max is a time"),
        ("errors<1%", "errors is a number without a unit"),
        ("rate>=5/s", "is no assertion"),
        ("error_rate<1", "error_rate is a share in percent, such as 0.1%"),
        ("p101<5ms", "is no assertion"),
        ("p999<5ms", "is no assertion"),
        ("latency<5ms", "there is no metric 'latency'; there are p50, p99, p99.99, max, mean, rate, calls, errors"),
        ("debit.p99<5ms", "there is no call 'debit'; there are Authorize, Commit, Release, Charge, GetBalance"),
        ("commit.unsent==0", "unsent is of the whole run, not of a call"),
    ],
)
def test_says_what_is_wrong_with_an_assertion(text: str, message: str) -> None:
    with pytest.raises(AssertionSyntaxError, match=re.escape(message)):
        parse(text)
