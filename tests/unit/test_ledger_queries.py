from __future__ import annotations

import pytest

from drawdown_server.ledger.queries import QUERIES, parse

DELETED_FROM = {"caps", "applied_caps", "cap_usage", "servers", "wallet_closings"}
"""What is removed or over; everything else is history."""


def test_blocks_are_found_by_name_with_their_comments() -> None:
    text = "-- about the file\n\n-- one --\nSELECT 1\nWHERE $1\n\n-- two --\n-- why\nSELECT 2\n"
    assert parse(text) == {"one": "SELECT 1\nWHERE $1", "two": "-- why\nSELECT 2"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-- one --\nSELECT 1\n-- one --\nSELECT 2\n", "line 3: query one is there twice"),
        ("SELECT 1\n-- one --\nSELECT 2\n", "line 1: SQL before the first name"),
        ("-- one --\n-- nothing\n-- two --\nSELECT 2\n", "query one has no SQL"),
    ],
)
def test_a_broken_file_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_columns_are_listed_and_no_query_needs_what_only_plain_postgres_has() -> None:
    for name, query in QUERIES.items():
        code = "\n".join(line for line in query.splitlines() if not line.startswith("--")).lower()
        assert "select *" not in code, name
        assert "returning *" not in code, name
        assert "advisory" not in code, name
        deleted = code.split("delete from ")[1:]
        assert {text.split()[0] for text in deleted} <= DELETED_FROM, name
        assert "update entries" not in code, name
