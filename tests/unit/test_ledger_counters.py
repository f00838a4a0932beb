from __future__ import annotations

from datetime import UTC, datetime

import pytest

from drawdown_server.ledger.counters import parse_counter


@pytest.mark.parametrize(
    ("counter", "end"),
    [
        ("|USD|MINUTE|0", datetime(1970, 1, 1, 0, 1, tzinfo=UTC)),
        ("|USD|HOUR|24", datetime(1970, 1, 2, 1, tzinfo=UTC)),
        ("key:1|USD|DAY|20000", datetime(2024, 10, 5, tzinfo=UTC)),
        ("key:1|USD|WEEK|0", datetime(1970, 1, 5, tzinfo=UTC)),  # the first Monday
        ("key:1|USD|WEEK|2857", datetime(2024, 10, 7, tzinfo=UTC)),
        (f"|USD|MONTH|{2024 * 12 + 1}", datetime(2024, 3, 1, tzinfo=UTC)),  # a leap February
        (f"|USD|MONTH|{2024 * 12 + 11}", datetime(2025, 1, 1, tzinfo=UTC)),
        ("|USD|LIFETIME|0", None),
    ],
)
def test_the_end_of_a_window(counter: str, end: datetime | None) -> None:
    parsed = parse_counter(counter)
    assert (parsed.asset, parsed.end_time) == ("USD", end)


@pytest.mark.parametrize(
    "counter",
    [
        "",
        "USD|DAY|1",
        "a|b|USD|DAY|1",
        "|USD|FORTNIGHT|1",
        "|USD|PER_REQUEST|1",
        "|USD|DAY|soon",
        "|USD|DAY|999999999",
        "|USD|MONTH|999999",
    ],
)
def test_what_is_no_counter_is_refused(counter: str) -> None:
    with pytest.raises(ValueError, match="is no counter of a cap"):
        parse_counter(counter)
