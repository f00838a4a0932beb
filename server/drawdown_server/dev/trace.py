"""Traces of LLM requests: how many tokens went in and how many came out, one request per line.

The columns are those of the public traces of LLM inference services: TIMESTAMP, ContextTokens, GeneratedTokens. When
they came does not matter here (a replay is as fast as it can), so TIMESTAMP is not read.

``data/llm_requests.csv`` is a trace of our own, made by ``synthetic_trace`` and written by
``python -m drawdown_server.dev.trace FILE``; its seed is fixed, so it never changes by itself.
"""

from __future__ import annotations

import csv
import random
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from drawdown_server.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
DEFAULT_TRACE: Final = Path(__file__).parent / "data" / "llm_requests.csv"
TOKENS_MAX: Final = 10_000_000
"""Most tokens of one cell: more than any model takes. A million such requests still cost far less than 2^53 units."""

SYNTHETIC_REQUESTS: Final = 2_000
SYNTHETIC_SEED: Final = 20_240_101
SYNTHETIC_START: Final = datetime(2024, 1, 1, tzinfo=UTC)
REQUESTS_PER_S: Final = 5.0
# Medians, spreads (sigma of the logarithm) and limits like those of chat traffic: long prompts, shorter answers.
CONTEXT_MEDIAN: Final = 700
CONTEXT_SIGMA: Final = 1.1
CONTEXT_MAX: Final = 16_000
GENERATED_MEDIAN: Final = 130
GENERATED_SIGMA: Final = 0.9
GENERATED_MAX: Final = 2_000


class TraceError(ConfigurationError):
    """The trace cannot be replayed; the message names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One request of a trace."""

    context_tokens: int
    generated_tokens: int


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


def _rows(path: Path, file: Iterable[str]) -> Iterator[TraceRow]:
    lines = csv.DictReader(file, strict=True)
    missing = [column for column in COLUMNS if column not in (lines.fieldnames or ())]
    if missing:
        raise TraceError(f"trace {path} lacks the columns {', '.join(missing)}; it must have {', '.join(COLUMNS)}")
    for cells in lines:
        where = f"trace {path}, line {lines.line_num}"
        yield TraceRow(_tokens(cells, "ContextTokens", where), _tokens(cells, "GeneratedTokens", where))


def _tokens(cells: Mapping[str, str | None], column: str, where: str) -> int:
    text = (cells[column] or "").strip()  # None when the line is too short
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(TOKENS_MAX)) and int(text) <= TOKENS_MAX):
        raise TraceError(f"{where}: {column} must be a whole number, 0 .. {TOKENS_MAX}, not {text[:40]!r}")
    return int(text)


def synthetic_trace() -> Iterator[tuple[str, int, int]]:
    """The cells of our own trace, line by line; always the same."""
    dice = random.Random(SYNTHETIC_SEED)  # noqa: S311 - a simulation, no secret
    after_s = 0.0
    for _ in range(SYNTHETIC_REQUESTS):
        after_s += dice.expovariate(REQUESTS_PER_S)
        time = SYNTHETIC_START + timedelta(milliseconds=round(after_s * 1000))
        context = _draw(dice, CONTEXT_MEDIAN, CONTEXT_SIGMA, CONTEXT_MAX)
        generated = _draw(dice, GENERATED_MEDIAN, GENERATED_SIGMA, GENERATED_MAX)
        yield f"{time:%Y-%m-%d %H:%M:%S}.{time.microsecond // 1000:03d}", context, generated


def _draw(dice: random.Random, median: int, sigma: float, most: int) -> int:
    return min(most, max(1, round(median * dice.lognormvariate(0.0, sigma))))


def write_synthetic_trace(path: Path) -> None:
    """Write our own trace as a file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(synthetic_trace())


if __name__ == "__main__":
    write_synthetic_trace(Path(sys.argv[1]))
