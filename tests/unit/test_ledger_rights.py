"""The rights that roles get are what the server's queries need, no more and no less, for every table there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from drawdown_server.ledger import migrations, queries, rights

SERVER: Final = "drawdown_server"
READER: Final = "drawdown_reader"
APPEND_ONLY: Final = {"entries", "hold_events", "wallet_changes", "dead_letters", "admin_audit"}
SECRET: Final = {"api_key_secrets"}
"""Tables of which people who look see nothing."""
VERBS: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")
MIGRATIONS_TABLE: Final = "schema_migrations"

_GRANT: Final = re.compile(r"GRANT ([A-Z, ]+?)(?: \((\w+)\))? ON (\w+) TO (\w+);")
_COPY: Final = re.compile(r"copy_records_to_table\(\s*\"(\w+)\"")
_LOCK: Final = re.compile(r"FROM (\w+)[^;]*?FOR UPDATE", re.DOTALL)


def tables() -> set[str]:
    """Every table that the migrations make and do not drop, and theirs."""
    sql = "\n".join(migration.sql for migration in migrations.load())
    made, dropped = (set(re.findall(rf"^{verb} TABLE (\w+)", sql, re.MULTILINE)) for verb in ("CREATE", "DROP"))
    return (made - dropped) | {MIGRATIONS_TABLE}


def granted(role: str) -> dict[str, set[str]]:
    """Rights by table, one for a single column as the right itself."""
    found: dict[str, set[str]] = {}
    for verbs, _, table, grantee in _GRANT.findall(rights.load()[role]):
        assert grantee == role
        found.setdefault(table, set()).update(verbs.split(", "))
    return found


def used() -> dict[str, set[str]]:
    """What the server does to each table besides reading it, from the text of its queries."""
    found: dict[str, set[str]] = {}
    for name, query in queries.QUERIES.items():
        if name.startswith("migration"):
            continue  # of the migrator
        for table in re.findall(r"INSERT INTO (\w+)", query):
            found.setdefault(table, set()).add("INSERT")
            if "DO UPDATE" in query:
                found[table].add("UPDATE")
        for table in [*re.findall(r"(?<!DO )\bUPDATE (\w+)\s+(?:\w+ )?SET", query), *_LOCK.findall(query)]:
            found.setdefault(table, set()).add("UPDATE")
        for table in re.findall(r"DELETE FROM (\w+)", query):
            found.setdefault(table, set()).add("DELETE")
    for file in Path(queries.__file__).parent.glob("*.py"):
        for table in _COPY.findall(file.read_text()):
            found.setdefault(table, set()).add("INSERT")
    return {table: verbs for table, verbs in found.items() if table in tables()}


def test_there_is_a_file_for_each_role() -> None:
    assert set(rights.load()) == {SERVER, READER}


@pytest.mark.parametrize("table", sorted(tables()))
def test_a_table_has_a_line_for_the_server(table: str) -> None:
    needed = ", ".join(verb for verb in VERBS if verb in {"SELECT"} | used().get(table, set()))
    assert table in granted(SERVER), (
        f"migrate would leave the server without rights in {table}: add the line\n"
        f"    GRANT {needed} ON {table} TO {SERVER};\n"
        f"to server/drawdown_server/ledger/sql/rights/{SERVER}.sql, and one for {READER} to {READER}.sql beside it, "
        "or the table to SECRET in this test"
    )


@pytest.mark.parametrize("table", sorted(tables()))
def test_the_server_has_the_rights_that_its_queries_need_and_no_other(table: str) -> None:
    assert granted(SERVER).get(table, set()) == {"SELECT"} | used().get(table, set())


def test_only_tables_that_exist_have_lines() -> None:
    assert set(granted(SERVER)) | set(granted(READER)) <= tables()


@pytest.mark.parametrize("table", sorted(APPEND_ONLY))
def test_what_is_recorded_can_be_added_to_and_nothing_else(table: str) -> None:
    assert granted(SERVER)[table] == {"SELECT", "INSERT"}


def test_people_who_look_may_read_everything_but_secrets_and_write_nothing() -> None:
    assert granted(READER) == {table: {"SELECT"} for table in tables() - SECRET}
