"""``--assert 'p99<5ms'``: what a pipeline demands of a run.

An assertion is ``[CALL.]METRIC COMPARISON VALUE``; without a call it is about all of them together.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from drawdown.load.histogram import Histogram
from drawdown.load.recording import Call

if TYPE_CHECKING:
    from collections.abc import Callable

    from drawdown.load.result import Result

_ASSERTION: Final = re.compile(
    r"\s*(?:(?P<call>[A-Za-z]+)\.)?(?P<metric>[a-z_]+|p[0-9]{1,2}(?:\.[0-9]{1,3})?|p100)\s*"
    r"(?P<comparison><=|>=|==|<|>)\s*(?P<value>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>[a-z%]*)\s*",
    re.ASCII,
)
_COMPARISONS: Final[dict[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
}
_NS: Final = {"us": 1e3, "ms": 1e6, "s": 1e9}


class AssertionSyntaxError(ValueError):
    """The text is no assertion; the message says why."""


class Kind(Enum):
    """What a metric is measured in."""

    TIME = "a time: give it a unit, us, ms or s"
    COUNT = "a number without a unit"
    SHARE = "a share in percent, such as 0.1%"


@dataclass(frozen=True, slots=True)
class Metric:
    """Something to demand."""

    kind: Kind
    read: Callable[[Result, Call | None], float]
    is_per_call: bool = True


def _latency(result: Result, call: Call | None) -> Histogram:
    return result.all_calls if call is None else result.latency.get(call, Histogram())


def _errors(result: Result, call: Call | None) -> int:
    return sum(count for (of, _, _), count in result.recording.errors.items() if call in (None, of))


def _denials(result: Result, call: Call | None) -> int:
    return sum(count for (of, _), count in result.recording.denials.items() if call in (None, of))


def _share(count: int, result: Result, call: Call | None) -> float:
    calls = _latency(result, call).count
    return 100 * count / calls if calls else 0.0


METRICS: Final[dict[str, Metric]] = {
    "max": Metric(Kind.TIME, lambda result, call: _latency(result, call).max_ns),
    "mean": Metric(Kind.TIME, lambda result, call: _latency(result, call).mean_ns),
    "rate": Metric(Kind.COUNT, lambda r, call: r.request_rate if call is None else r.call_rate(call)),
    "calls": Metric(Kind.COUNT, lambda result, call: _latency(result, call).count),
    "errors": Metric(Kind.COUNT, _errors),
    "error_rate": Metric(Kind.SHARE, lambda r, call: _share(_errors(r, call), r, call)),
    "denials": Metric(Kind.COUNT, _denials),
    "denial_rate": Metric(Kind.SHARE, lambda r, call: _share(_denials(r, call), r, call)),
    "late_starts": Metric(Kind.SHARE, lambda result, _: result.late_start_percent, is_per_call=False),
    "unsent": Metric(Kind.COUNT, lambda result, _: result.recording.unsent, is_per_call=False),
}
"""By name; ``p50`` .. ``p99.99`` are times as well."""


@dataclass(frozen=True, slots=True)
class Check:
    """One assertion, read."""

    text: str
    name: str
    kind: Kind
    call: Call | None
    read: Callable[[Result, Call | None], float]
    comparison: str
    bound: float
    """In nanoseconds, in percent, or a number."""

    def judge(self, result: Result) -> Judged:
        """Holds it against a run; of calls that were not made nothing can be asserted, so that fails."""
        if _latency(result, self.call).count == 0 and self.kind is Kind.TIME:
            return Judged(self.text, "no such call was made", holds=False)
        value = self.read(result, self.call)
        shown = {Kind.TIME: f"{value / 1e6:.3f} ms", Kind.SHARE: f"{value:.4g}%", Kind.COUNT: f"{value:,.6g}"}[
            self.kind
        ]
        return Judged(self.text, shown, holds=_COMPARISONS[self.comparison](value, self.bound))


@dataclass(frozen=True, slots=True)
class Judged:
    """An assertion and how it came out."""

    text: str
    value: str
    """What it was, for people."""
    holds: bool


def parse(text: str) -> Check:
    """The check of a text such as ``p99<5ms``, ``authorize.p99.9 <= 20ms`` or ``error_rate < 0.1%``.

    Raises:
        AssertionSyntaxError: It is none; the message says what is wrong and what would be right.
    """
    match = _ASSERTION.fullmatch(text)
    if match is None:
        raise AssertionSyntaxError(f"{text!r} is no assertion such as p99<5ms, authorize.p99.9<=20ms or errors==0")
    name, unit = match["metric"], match["unit"]
    metric = METRICS.get(name) or _percentile(text, name)
    call = _call(text, match["call"])
    if call is not None and not metric.is_per_call:
        raise AssertionSyntaxError(f"{text!r}: {name} is of the whole run, not of a call")
    bound = float(match["value"])
    match metric.kind:
        case Kind.TIME if unit in _NS:
            bound *= _NS[unit]
        case Kind.COUNT if not unit:
            pass
        case Kind.SHARE if unit == "%":
            pass
        case kind:
            raise AssertionSyntaxError(f"{text!r}: {name} is {kind.value}")
    return Check(text.strip(), name, metric.kind, call, metric.read, match["comparison"], bound)


def _percentile(text: str, name: str) -> Metric:
    if not re.fullmatch(r"p[0-9]+(\.[0-9]+)?", name):
        known = ", ".join(["p50", "p99", "p99.99", *METRICS])
        raise AssertionSyntaxError(f"{text!r}: there is no metric {name!r}; there are {known}")
    percent = float(name[1:])
    return Metric(Kind.TIME, lambda result, call: _latency(result, call).percentile_ns(percent))


def _call(text: str, name: str | None) -> Call | None:
    if name is None:
        return None
    found = next((call for call in Call if call.lower() == name.lower()), None)
    if found is None:
        raise AssertionSyntaxError(f"{text!r}: there is no call {name!r}; there are {', '.join(Call)}")
    return found
