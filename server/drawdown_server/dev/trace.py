"""A trace of LLM requests of our own: ``data/llm_requests.csv``, made by ``synthetic_trace``.

``python -m drawdown_server.dev.trace FILE`` writes it; its seed is fixed, so it never changes by itself. How traces are
read is in ``drawdown.load.trace``.
"""

from __future__ import annotations

import csv
import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from drawdown.load.trace import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_TRACE: Final = Path(__file__).parent / "data" / "llm_requests.csv"
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
