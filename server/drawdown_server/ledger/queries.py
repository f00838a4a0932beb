"""Loads ``sql/queries.sql``: the only SQL of the server besides the migrations.

A block starts with a line ``-- name --`` and ends at the next one. Everything else is SQL, comments included, with
``$n`` parameters. ``QUERIES`` is loaded once, at import.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final

_HEADER: Final = re.compile(r"^-- ([a-z][a-z0-9_]*) --$")


def parse(text: str) -> dict[str, str]:
    """The blocks of a query file by name.

    Raises:
        ValueError: A name twice, a block without SQL, or SQL before the first name.
    """
    blocks: dict[str, list[str]] = {}
    current: list[str] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(line)
        if header:
            if header[1] in blocks:
                raise ValueError(f"line {number}: query {header[1]} is there twice")
            current = blocks[header[1]] = []
        elif current is not None:
            current.append(line)
        elif line.strip() and not line.startswith("--"):
            raise ValueError(f"line {number}: SQL before the first name")
    queries = {name: "\n".join(lines).strip() for name, lines in blocks.items()}
    for name, query in queries.items():
        if all(line.startswith("--") or not line.strip() for line in query.splitlines()):
            raise ValueError(f"query {name} has no SQL")
    return queries


QUERIES: Final = parse((files("drawdown_server.ledger") / "sql" / "queries.sql").read_text(encoding="utf-8"))
"""Every query by name."""
