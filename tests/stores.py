"""The servers that tests run against: one Valkey, one Redis 7 when it is installed, one Postgres per worker.

Every worker of a parallel run has its own servers; a test gets them emptied.
"""

from __future__ import annotations

import shutil
import socket
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from drawdown_server.dev.process import HOST
from drawdown_server.ledger.migrations import migrate

if TYPE_CHECKING:
    from drawdown_server.dev.valkey import ValkeyProcess

TEMPLATE_DATABASE = "template_drawdown"
REDIS_COMMAND = "redis-server"
REDIS_MISSING = f"{REDIS_COMMAND} is not installed (Debian: apt-get install redis-server)"


def redis_binary() -> Path | None:
    """Debian's Redis 7, when it is installed."""
    found = shutil.which(REDIS_COMMAND)
    return None if found is None else Path(found)


def empty(server: ValkeyProcess) -> None:
    """Delete every key and every function of a Valkey or Redis, and wait until both are gone."""
    with closing(socket.create_connection((HOST, server.port), timeout=10)) as connection:
        for command in (b"FLUSHALL SYNC", b"FUNCTION FLUSH SYNC"):
            connection.sendall(command + b"\r\n")
            reply = connection.recv(256)
            assert reply == b"+OK\r\n", (command, reply)


async def migrated_template(server_url: str, template_url: str) -> None:
    """Make the database that every test's own database is copied from."""
    connection = await asyncpg.connect(server_url)
    try:
        await connection.execute(f'CREATE DATABASE "{TEMPLATE_DATABASE}"')
    finally:
        await connection.close()
    await migrate(template_url)
