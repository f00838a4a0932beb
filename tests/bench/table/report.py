"""The table for people, and the same as JSON."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.table.goals import verdicts

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.table.goals import Verdict
    from bench.table.samples import Sample, Samples

VERSION: Final = 2
"""Of the JSON."""
COLUMNS: Final[tuple[tuple[str, Callable[[Sample], float]], ...]] = (
    ("p50 us", lambda sample: sample.load.p50_us),
    ("p99 us", lambda sample: sample.load.p99_us),
    ("p99.9 us", lambda sample: sample.load.p999_us),
    ("server us", lambda sample: sample.us_per_call("server")),
    ("store us", lambda sample: sample.us_per_call("store")),
    ("ledger us", lambda sample: sample.us_per_call("flusher") + sample.us_per_call("postgres")),
)
CELL: Final = 10


def as_text(samples: Samples) -> str:
    """The table, and what became of the goals."""
    rows = [row for row in samples.rows if samples.rounds[0][row].result is not None]
    width = max(map(len, rows), default=0)
    titles = ("calls/s", "±", *(title for title, _ in COLUMNS), "limit")
    lines = [f"{'':{width}}" + "".join(f"{title:>{CELL}}" for title in titles)] if rows else []
    for row in rows:
        rate = samples.of_row(row, lambda sample: sample.load.rate)
        values = [samples.of_row(row, value).median for _, value in COLUMNS]
        cells = [f"{rate.median:.0f}", f"{rate.half_range / rate.median:.0%}"]
        cells += [f"{value:.0f}" if value else "-" for value in values]
        lines.append(f"{row:{width}}" + "".join(f"{cell:>{CELL}}" for cell in (*cells, samples.limit(row))))
    found = verdicts(samples)
    name_width = max((len(verdict.goal.name) for verdict in found), default=0)
    return "\n".join([*lines, "", *(_goal_line(verdict, name_width) for verdict in found), ""])


def _goal_line(verdict: Verdict, width: int) -> str:
    goal = verdict.goal
    line = f"{goal.name:{width}}{_number(verdict.value.median):>9} ±{_number(verdict.value.half_range):<6}"
    line += f" (goal {'>=' if goal.is_least else '<='} {goal.bound:,})"
    if verdict.best is not None:
        line += f", at best {_number(verdict.best.median)}"
    return "  ".join(part for part in (line, verdict.note, verdict.text) if part)


def _number(value: float) -> str:
    """Three digits say it."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"


def as_json(samples: Samples) -> str:
    """Everything that was measured."""
    return json.dumps(
        {
            "version": VERSION,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": {
                "processor": _processor(),
                "cores": os.cpu_count(),
                "python": platform.python_version(),
                "system": platform.platform(),
            },
            "rows": {row: [_sample(each[row]) for each in samples.rounds] for row in samples.rows},
            "goals": {
                verdict.goal.name: {
                    "median": verdict.value.median,
                    "half_range": verdict.value.half_range,
                    "bound": verdict.goal.bound,
                    "is_least": verdict.goal.is_least,
                    "best": None if verdict.best is None else verdict.best.median,
                    "is_met": verdict.goal.is_met(verdict.value.median),
                }
                for verdict in verdicts(samples)
            },
        },
        indent=1,
    )


def _sample(sample: Sample) -> dict[str, object]:
    return {
        "result": None if sample.result is None else asdict(sample.result),
        "used": dict(sample.used),
        "busy": dict(sample.busy),
    }


def _processor() -> str:
    """As the kernel calls it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
