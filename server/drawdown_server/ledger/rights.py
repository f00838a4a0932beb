"""Gives roles their rights in the tables: ``sql/rights/<role>.sql``, for every role that the database server has.

They come with each release, behind its migrations, so no table is ever without them. Where there are no such roles
(a developer's machine, one user for everything) there is nothing to do. Rights that are there stay: a file that is to
take one away says REVOKE.
"""

from __future__ import annotations

from importlib.resources import files

from drawdown_server.ledger.migrations import connect
from drawdown_server.ledger.queries import QUERIES


def load() -> dict[str, str]:
    """The files by their role."""
    folder = files("drawdown_server.ledger") / "sql" / "rights"
    return {
        file.name.removesuffix(".sql"): file.read_text(encoding="utf-8")
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
    }


async def grant_rights(postgres_url: str) -> list[str]:
    """Give every role that is there its rights; the schema must be at its newest.

    Returns:
        Those roles.

    Raises:
        ConfigurationError: Postgres refuses us, or the tables are somebody else's.
        StoreUnavailableError: Postgres cannot be reached.
    """
    granted: list[str] = []
    async with connect(postgres_url) as connection, connection.transaction():
        # One at a time: Postgres fails the second of two that change the rights of one table at once.
        await connection.execute(QUERIES["migrations_lock"])
        for role, sql in load().items():
            if await connection.fetchval(QUERIES["role_exists"], role):
                await connection.execute(sql)
                granted.append(role)
    return granted
