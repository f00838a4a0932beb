"""Traces of LLM requests: when each came, how many tokens went in and how many came out; one request per line.

The columns are those of the public traces of LLM inference services: TIMESTAMP, ContextTokens, GeneratedTokens.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
TOKENS_MAX: Final = 10_000_000
"""Most tokens of one cell: more than any model takes. A million such requests still cost far less than 2^53 units."""
OUTPUT_LIMIT_LEAST: Final = 1_024
"""Smallest limit of output tokens a caller sets; twice as much as often as the answer needs."""
TEXT_SHOWN: Final = 40
"""Characters of a bad cell that an error quotes."""


class TraceError(ValueError):
    """The trace cannot be replayed; the message names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One request of a trace."""

    context_tokens: int
    generated_tokens: int
    timestamp: str
    """As the file has it; ``arrivals`` reads it."""

    @property
    def output_limit(self) -> int:
        """The limit of output tokens that its caller may have set: what a hold has to cover."""
        limit = OUTPUT_LIMIT_LEAST
        while limit < self.generated_tokens:
            limit *= 2
        return limit


def read_trace(path: Path, limit: int | None = None) -> list[TraceRow]:
    """The requests of a trace file.

    Args:
        path: A CSV file with the columns of ``COLUMNS``; others are ignored.
        limit: Only the first so many requests.

    Raises:
        TraceError: There is no such file, or it is not a trace.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows: list[TraceRow] = []
            for row in _rows(path, file):
                if limit is not None and len(rows) == limit:
                    break
                rows.append(row)
    except FileNotFoundError:
        raise TraceError(f"trace {path} does not exist") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"trace {path} cannot be read: {error}") from None
    if not rows:
        raise TraceError(f"trace {path} has no requests")
    return rows


def arrivals(rows: Sequence[TraceRow], speed: float) -> list[float]:
    """When each request comes, in seconds after the first one.

    Args:
        rows: The requests; their times never go back.
        speed: 2 replays a minute in half a minute.

    Raises:
        TraceError: A timestamp is none, or is earlier than the one before it; the message has its number.
    """
    times: list[float] = []
    first: datetime | None = None
    for number, row in enumerate(rows, start=1):
        try:
            time = datetime.fromisoformat(row.timestamp)
        except ValueError:
            shown = row.timestamp[:TEXT_SHOWN]
            raise TraceError(f"request {number} of the trace: TIMESTAMP {shown!r} is no time in ISO 8601") from None
        time = time if time.tzinfo else time.replace(tzinfo=UTC)
        first = first or time
        after_s = (time - first).total_seconds() / speed
        if times and after_s < times[-1]:
            raise TraceError(f"request {number} of the trace: TIMESTAMP {row.timestamp} is earlier than the one before")
        times.append(after_s)
    return times


def _rows(path: Path, file: Iterable[str]) -> Iterator[TraceRow]:
    lines = csv.DictReader(file, strict=True)
    missing = [column for column in COLUMNS if column not in (lines.fieldnames or ())]
    if missing:
        raise TraceError(f"trace {path} lacks the columns {', '.join(missing)}; it must have {', '.join(COLUMNS)}")
    for cells in lines:
        where = f"trace {path}, line {lines.line_num}"
        yield TraceRow(
            _tokens(cells, "ContextTokens", where),
            _tokens(cells, "GeneratedTokens", where),
            (cells["TIMESTAMP"] or "").strip(),
        )


def _tokens(cells: Mapping[str, str | None], column: str, where: str) -> int:
    text = (cells[column] or "").strip()  # None when the line is too short
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(TOKENS_MAX)) and int(text) <= TOKENS_MAX):
        raise TraceError(f"{where}: {column} must be a whole number, 0 .. {TOKENS_MAX}, not {text[:TEXT_SHOWN]!r}")
    return int(text)
