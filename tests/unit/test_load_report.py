"""The report: in words, as JSON, as a page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from drawdown.load.assertions import Judged
from drawdown.load.document import document
from drawdown.load.page import page
from drawdown.load.plan import Loop
from drawdown.load.plots import Linear, LogTime, Percentiles, time_text
from drawdown.load.recording import Call, Outcome, Recording
from drawdown.load.shape import parse_shape
from drawdown.load.text import lines
from unit.load_results import MS, SECOND_NS, ZERO_NS, recording_of, result_of

if TYPE_CHECKING:
    from drawdown.load.result import Result

VOID = {"meta", "br"}


class Checker(HTMLParser):
    """Checks that tags are nested, and collects what the page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attrs if name in {"href", "src"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def checked(html: str) -> str:
    """The texts of a page that is well-formed and loads nothing."""
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    assert checker.references == []
    assert "http" not in html.replace("http-equiv", "")
    return " ".join(checker.text)


def busy() -> Recording:
    recording = recording_of([20] * 100 + [2] * 900)
    recording.merge(recording_of([5] * 700, call=Call.COMMIT))
    recording.merge(recording_of([3] * 20, outcome=Outcome.DENIED))
    recording.denials[Call.AUTHORIZE, "INSUFFICIENT_FUNDS"] = 20
    recording.debited["USD"] = 4_321
    return recording


def told(result: Result, *judged: Judged) -> str:
    return "\n".join(lines(result, judged))


def test_the_report_says_what_was_done_and_what_came_of_it() -> None:
    report = told(result_of(busy()), Judged("p99<50ms", "20.000 ms", holds=True))
    assert "open loop, 100 requests/s for 10 s, poisson arrivals, 1 process, seed 7" in report
    assert "1,720, 172.0/s: 1,700 ok, 20 denied, 0 failed" in report
    assert "Authorize  INSUFFICIENT_FUNDS     20" in report
    assert "USD      4,321             4,321          0" in report
    assert "ok    conserved" in report
    assert "ok    p99<50ms (it was 20.000 ms)" in report
    assert "WARNING" not in report
    assert "at the end" not in report


def test_what_the_end_of_a_run_had_to_do_is_said() -> None:
    recording = busy()
    recording.released_at_end, recording.sent_again = 3, 2
    words = "3 open holds released, 2 calls without an answer sent again"
    assert f"at the end  {words}" in told(result_of(recording))
    assert words in checked(page(result_of(recording), []))


@pytest.mark.parametrize(("after", "held"), [(10_000, 0), (10_000 - 4_320, 0), (10_000 - 4_321, 5)])
def test_money_that_is_not_where_it_should_be_is_a_failure(after: int, held: int) -> None:
    result = result_of(busy(), after=after, held_after=held)
    assert "FAIL  not conserved" in told(result)
    assert document(result, [])["is_passed"] is False


def test_holds_that_could_not_be_settled_are_a_failure() -> None:
    recording = busy()
    recording.unsettled["UNAVAILABLE"] = 2
    result = result_of(recording)
    assert "FAIL  holds that could not be settled at the end: 2 UNAVAILABLE" in told(result)
    assert document(result, [])["is_passed"] is False


def test_balances_that_nobody_read_are_not_called_conserved() -> None:
    result = result_of(busy(), is_checked=False)
    assert "conserved" not in told(result)
    conservation = document(result, [])["conservation"]
    assert isinstance(conservation, dict)
    assert (conservation["is_checked"], conservation["assets"]) == (False, [])


def test_balances_that_cannot_be_read_are_a_failure_with_a_report() -> None:
    result = result_of(busy(), unread="UNAVAILABLE: nobody is there")
    assert "FAIL  the balances could not be read after the run: UNAVAILABLE: nobody is there" in told(result)
    found = document(result, [])
    assert found["is_passed"] is False
    assert isinstance(found["conservation"], dict)
    assert found["conservation"]["unread"] == "UNAVAILABLE: nobody is there"


def lagging() -> Recording:
    recording = busy()
    for _ in range(100):
        recording.start_lag.add(4 * MS)
    return recording


def held_back() -> Recording:
    recording = busy()
    recording.held_back = 12
    return recording


def unsent() -> Recording:
    recording = held_back()
    recording.unsent = 34
    return recording


def cold() -> Recording:
    recording = busy()
    recording.end(Call.COMMIT, ZERO_NS - SECOND_NS, ZERO_NS, Outcome.FAILED)
    return recording


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (
            result_of(lagging()),
            "The generator was the bottleneck: at p99 it began requests or read answers 4.0 ms late",
        ),
        (result_of(busy(), cpu_share=0.97), "its busiest process used 97% of a core"),
        (result_of(held_back()), "12 requests began late, because 100 were in flight (--in-flight)"),
        (result_of(unsent()), "34 requests never began: the server did not keep up"),
        (result_of(cold()), "1 calls failed during the warm-up"),
        (result_of(busy(), is_stopped_early=True, measured_s=4.25), "The run was stopped after 4.2 of 10 s."),
        (result_of(busy(), loop=Loop.CLOSED), "Closed loop: a stalled server also stalls the load"),
    ],
)
def test_what_spoils_the_numbers_is_said(result: Result, words: str) -> None:
    assert words in told(result)
    assert words in checked(page(result, []))
    assert any(words in str(warning) for warning in document(result, [])["warnings"] or ())  # type: ignore[union-attr]


def test_the_document_is_json_with_its_units_in_its_names() -> None:
    judged = [Judged("errors==0", "0", holds=True), Judged("max<1ms", "20 ms", holds=False)]
    found = json.loads(json.dumps(document(result_of(busy()), judged)))
    assert (found["version"], found["is_passed"], found["measured_s"]) == (1, False, 10.0)
    assert found["settings"]["load"] == "100:10s"
    assert [call["call"] for call in found["calls"]] == ["Authorize", "Commit"]
    authorize = found["calls"][0]
    assert (authorize["count"], authorize["rate_per_s"]) == (1_020, 102.0)
    assert authorize["latency_ms"]["p50"] == pytest.approx(2, rel=0.001)
    assert authorize["latency_ms"]["max"] == 20
    assert found["all_calls"]["count"] == 1_720
    assert found["denials"] == [{"call": "Authorize", "reason": "INSUFFICIENT_FUNDS", "count": 20}]
    assert sum(point["requests"] for point in found["over_time"]) == 1_720
    assert found["over_time"][1]["begin_s"] == 0.5
    assert found["conservation"]["assets"] == [
        {"asset": "USD", "debited_units": 4_321, "fallen_units": 4_321, "held_more_units": 0}
    ]
    assert found["assertions"][1] == {"assertion": "max<1ms", "value": "20 ms", "holds": False}


def test_the_page_is_whole_and_loads_nothing() -> None:
    html = page(result_of(busy()), [Judged("p99<1ms", "20.000 ms", holds=False)])
    text = checked(html)
    assert html.count("<svg") == 4  # rates, two calls over time, percentiles
    for words in ("failed", "p99<1ms (it was 20.000 ms)", "INSUFFICIENT_FUNDS", "used_percent", "grpcio", "p99.9"):
        assert words in text
    assert "$" not in text


def test_what_others_named_is_text_on_the_page() -> None:
    result = result_of(busy(), shape=parse_shape("1", 1), wallets=["<script>alert(1)</script>"])
    assert "<script" not in page(result, [Judged("<b>", "<i>", holds=True)])


def test_a_run_without_an_answer_has_a_report() -> None:
    result = result_of(Recording(ZERO_NS, SECOND_NS), measured_s=0.0)
    assert "0 requests" in told(result)
    assert "passed" in checked(page(result, []))
    assert document(result, [])["calls"] == []


def test_one_call_can_be_drawn() -> None:
    assert checked(page(result_of(recording_of([2])), []))


# --- axes ---


@pytest.mark.parametrize(
    ("least", "most", "ticks"),
    [(0, 10, ["0", "2", "4", "6", "8", "10"]), (0, 0.7, ["0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7"])],
)
def test_ticks_are_round(least: float, most: float, ticks: list[str]) -> None:
    axis = Linear("", least, most)
    assert [text for _, text in axis.ticks()] == ticks
    assert (axis.at(least), axis.at(most)) == (0, 1)


def test_times_stand_on_decades() -> None:
    axis = LogTime("", [0.3, 900])
    assert [text for _, text in axis.ticks()] == ["100 µs", "1 ms", "10 ms", "100 ms", "1 s"]
    assert [axis.at(value) for value in (0.1, 10, 1_000)] == pytest.approx([0, 0.5, 1])
    assert [text for _, text in LogTime("", [2, 18]).ticks()] == ["2 ms", "5 ms", "10 ms", "20 ms"]
    assert list(LogTime("", [5, 5]).ticks())
    assert list(LogTime("", []).ticks())


def test_each_nine_is_as_wide_as_the_one_before() -> None:
    axis = Percentiles("", 1_000_000)
    assert [axis.at(percent) for percent in (0, 90, 99, 99.9, 99.99)] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert [text for _, text in Percentiles("", 150).ticks()][-1] == "p99"  # p99.9 of 150 values is their largest


@pytest.mark.parametrize(("value", "text"), [(0.05, "50 µs"), (2, "2 ms"), (12.34, "12.3 ms"), (1_500, "1.5 s")])
def test_times_have_the_unit_that_fits(value: float, text: str) -> None:
    assert time_text(value) == text
