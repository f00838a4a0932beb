"""A run as one HTML file: nothing is loaded from elsewhere, light and dark, readable on paper."""

from __future__ import annotations

from html import escape
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Final

from drawdown.load.document import settings
from drawdown.load.plots import Linear, LogTime, Percentiles, Series, plot, time_text
from drawdown.load.recording import Call, Interval, Outcome
from drawdown.load.result import versions
from drawdown.load.text import Table, facts, load, tables, verdicts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from drawdown.load.assertions import Judged
    from drawdown.load.document import Json
    from drawdown.load.result import Result

CALL_COLORS: Final = {
    Call.AUTHORIZE: "--blue",
    Call.COMMIT: "--green",
    Call.RELEASE: "--violet",
    Call.CHARGE: "--orange",
    Call.GET_BALANCE: "--pink",
}


def page(result: Result, judged: Sequence[Judged]) -> str:
    """The whole file."""
    checks = verdicts(result, judged)
    passed = all(holds for holds, _ in checks)
    told = facts(result)
    template = Template(resources.files("drawdown.load").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(f"Load test {result.plan.run_id}"),
        target=escape(result.connection.target),
        verdict="passed" if passed else "failed",
        verdict_class="good" if passed else "bad",
        subtitle=escape(f"{told['run']} · measured for {result.measured_s:.1f} s"),
        load=escape(f"{load(result)}; {told['requests']}."),
        tiles="".join(_tiles(result)),
        warnings="".join(f'<p class="warning">{escape(warning)}</p>' for warning in result.warnings),
        verdicts=_verdicts(checks),
        plots="".join(_plots(result)),
        tables="".join(_tables(result)),
        version=escape(versions()["drawdown"]),
    )


def _tiles(result: Result) -> Iterator[str]:
    """The numbers that people look for first."""
    calls = result.all_calls
    numbers: list[tuple[str, str, bool]] = [
        (f"{result.request_rate:,.0f}/s", "requests", False),
        (f"{result.call_rate():,.0f}/s", "calls", False),
        *((time_text(calls.percentile_ns(p) / 1e6), f"latency p{p:g}", False) for p in (50, 99, 99.9, 99.99)),
        (f"{result.denials:,}", "denied", False),
        (f"{result.errors:,}", "failed", result.errors > 0),
    ]
    for number, name, is_bad in numbers:
        yield f'<div class="tile{" bad" if is_bad else ""}"><b>{escape(number)}</b><span>{escape(name)}</span></div>'


def _plots(result: Result) -> Iterator[str]:
    if not result.calls:
        return
    # What ended after the end is in the tables; a bin that is mostly outside of the run would look like a collapse.
    last = max(1, round(result.measured_s / result.plan.interval_s))
    intervals = [result.recording.intervals.get(number, Interval()) for number in range(last)]
    yield _rates(result, intervals)
    for call in result.latency:
        yield _latency_over_time(result, intervals, call)
    yield _percentiles(result)


def _rates(result: Result, intervals: Sequence[Interval]) -> str:
    width_s = result.plan.interval_s
    times = [number * width_s for number in range(len(intervals))]
    begun = [interval.begun / width_s for interval in intervals]
    ended = {
        outcome: [sum(n for (_, how), n in i.ended.items() if how is outcome) / width_s for i in intervals]
        for outcome in Outcome
    }
    lines = [("requests", "--grey", begun), ("calls ok", "--blue", ended[Outcome.OK])]
    if result.denials:
        lines.append(("calls denied", "--orange", ended[Outcome.DENIED]))
    if result.errors:
        lines.append(("calls failed", "--red", ended[Outcome.FAILED]))
    series = [Series(name, color, list(zip(times, values, strict=True))) for name, color, values in lines]
    tips = [
        (at, "\n".join([f"{at:g} s", *(f"{name}: {values[n]:,.0f}/s" for name, _, values in lines)]))
        for n, at in enumerate(times)
    ]
    most = max(max(values) for _, _, values in lines)
    x, y = Linear("seconds after the warm-up", 0, _last(times)), Linear("", 0, most)
    return plot("Rate over time, per second", series, x, y, tips)


def _latency_over_time(result: Result, intervals: Sequence[Interval], call: Call) -> str:
    width_s = result.plan.interval_s
    times = [number * width_s for number in range(len(intervals))]
    found = [interval.latency.get(call) for interval in intervals]
    lines: list[tuple[str, str, list[float | None]]] = [
        ("max", "--grey", [None if h is None else h.max_ns / 1e6 for h in found]),
        ("p99", "--orange", [None if h is None else h.percentile_ns(99) / 1e6 for h in found]),
        ("p50", "--blue", [None if h is None else h.percentile_ns(50) / 1e6 for h in found]),
    ]
    series = [
        Series(name, color, list(zip(times, values, strict=True)), is_thin=name == "max")
        for name, color, values in lines
    ]
    tips = []
    for n, (at, histogram) in enumerate(zip(times, found, strict=True)):
        numbers = [f"{name}: {time_text(value)}" for name, _, values in lines if (value := values[n]) is not None]
        tips.append((at, "\n".join([f"{at:g} s", *numbers, f"{histogram.count if histogram else 0:,} calls"])))
    values = [value for _, _, line in lines for value in line if value is not None]
    x, y = Linear("seconds after the warm-up, when the call was due", 0, _last(times)), LogTime("", values)
    return plot(f"{call}: latency over time", series, x, y, tips)


def _percentiles(result: Result) -> str:
    x = Percentiles("percentile", max(histogram.count for histogram in result.latency.values()))
    points = x.points()
    series = []
    for call, histogram in result.latency.items():
        own = Percentiles("", histogram.count)  # a line ends where its call has no more values
        line = [(p, histogram.percentile_ns(p) / 1e6) for p in points if own.at(p) <= 1 + 1e-9]
        series.append(Series(call, CALL_COLORS[call], line))
    tips = [
        (
            p,
            "\n".join(
                [f"p{p:.4g}", *(f"{c}: {time_text(h.percentile_ns(p) / 1e6)}" for c, h in result.latency.items())]
            ),
        )
        for p, _ in x.ticks()
    ]
    values = [value for one in series for _, value in one.points if value is not None]
    return plot("Latency by percentile", series, x, LogTime("", values), tips)


def _last(times: Sequence[float]) -> float:
    return times[-1] if len(times) > 1 else 1.0


def _verdicts(checks: Sequence[tuple[bool, str]]) -> str:
    rows = "".join(
        f'<tr><td class="text {(word := "holds" if holds else "fails")}">{word}</td>'
        f'<td class="text wide" style="width:100%">{escape(text)}</td></tr>'
        for holds, text in checks
    )
    return f'<div class="box"><table>{rows}</table></div>' if checks else ""


def _tables(result: Result) -> Iterator[str]:
    for table in tables(result):
        yield f"<h2>{escape(table.title[0].upper() + table.title[1:])}</h2>{_table(table)}"
    told = {name: text for name, text in facts(result).items() if name in {"generator", "at the end"}}
    listed = {**told, **settings(result), **versions()}
    rows = [[name, _setting(value)] for name, value in listed.items() if value is not None]
    yield "<h2>Settings and versions</h2>" + _table(Table("", ["SETTING", "VALUE"], rows, 2))


def _setting(value: Json) -> str:
    match value:
        case dict():
            return ", ".join(f"{key} {_setting(item)}" for key, item in value.items())
        case list():
            return " .. ".join(map(_setting, value))  # the only lists are ranges
        case _:
            return str(value)


def _table(table: Table) -> str:
    def cells(row: Sequence[str], tag: str) -> str:
        # Where there are numbers the table scrolls; where all is text it wraps.
        of_text = ' class="text wide"' if table.texts == len(table.head) else ' class="text"'
        return "".join(
            f"<{tag}{of_text if column < table.texts else ''}>{escape(cell)}</{tag}>" for column, cell in enumerate(row)
        )

    head = f"<tr>{cells(table.head, 'th')}</tr>"
    rows = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in table.rows)
    return f'<div class="box"><table>{head}{rows}</table></div>'
