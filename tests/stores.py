"""The servers that tests run against: one Valkey, one Redis 7 when it is installed, one Postgres per worker.

Every worker of a parallel run has its own servers; a test gets them emptied, as the users that `deploy/` has for a
server, with the rights that these have in production. What a test does beyond them it does as the superuser.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from redis import Redis
from redis.cluster import RedisCluster

from drawdown_server.dev.process import HOST
from drawdown_server.ledger.migrations import migrate
from drawdown_server.ledger.rights import grant_rights

if TYPE_CHECKING:
    from drawdown_server.dev.valkey import ValkeyProcess

TEMPLATE_DATABASE = "template_drawdown"
DEPLOY: Final = Path(__file__).parents[1] / "deploy"
ROLES: Final = DEPLOY / "postgres" / "roles.sql"
MIGRATOR: Final = "drawdown_migrator"
SERVER_ROLE: Final = "drawdown_server"
SERVER_USER: Final = "drawdown"
PASSWORD: Final = "of-the-tests"  # noqa: S105  # of every user of ours; the servers listen on the loopback address alone
SINGLE_STORES: Final = ("valkey", "redis7")
CLUSTER: Final = "cluster"
REDIS_COMMAND = "redis-server"
REDIS_MISSING = f"{REDIS_COMMAND} is not installed (Debian: apt-get install redis-server)"


def redis_binary() -> Path | None:
    """Debian's Redis 7, when it is installed."""
    found = shutil.which(REDIS_COMMAND)
    return None if found is None else Path(found)


def acl_file() -> str:
    """The users of Valkey as `deploy/` has them."""
    return subprocess.run(
        [DEPLOY / "valkey" / "render-acl.sh"],
        env=os.environ | {"VALKEY_SERVER_PASSWORD": PASSWORD, "VALKEY_ADMIN_PASSWORD": PASSWORD},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def with_users(directory: Path) -> list[str]:
    """Lines of a configuration with which a Valkey has these users; without a user one may do everything, as a test."""
    rendered = acl_file()
    nobody = "user default reset off\n"
    assert rendered.count(nobody) == 1
    path = directory / "users.acl"
    path.write_text(rendered.replace(nobody, "user default reset on nopass ~* &* +@all\n"))
    return [f"aclfile {path}"]


def as_user(url: str, user: str) -> str:
    """The same URL for another user of ours."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{user}:{PASSWORD}@{parts.netloc.rpartition('@')[2]}"))


def superuser(valkey_url: str) -> str:
    """The URL of the same Valkey for one who may do everything: in tests that is who gives no password."""
    parts = urlsplit(valkey_url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def client_of(url: str, key: str) -> Redis:
    """A client that may do everything, of the one server that has a key."""
    url = superuser(url)
    seeds = urlsplit(url).netloc.split(",")
    if len(seeds) == 1:
        return Redis.from_url(url)
    host, _, port = seeds[0].rpartition(":")
    with RedisCluster(host=host, port=int(port)) as cluster:
        node = cluster.get_node_from_key(key)
    return Redis(node.host, node.port)


def empty(*servers: ValkeyProcess) -> None:
    """Delete every key and every function of each Valkey or Redis, and wait until both are gone."""
    for server in servers:
        with closing(socket.create_connection((HOST, server.port), timeout=10)) as connection:
            for command in (b"FLUSHALL SYNC", b"FUNCTION FLUSH SYNC"):
                connection.sendall(command + b"\r\n")
                reply = connection.recv(256)
                assert reply == b"+OK\r\n", (command, reply)


async def migrated_template(server_url: str, template_url: str) -> None:
    """Make the database that every test's own database is copied from, and the roles of `deploy/`."""
    connection = await asyncpg.connect(server_url)
    try:
        await connection.execute(f'CREATE DATABASE "{TEMPLATE_DATABASE}"')
    finally:
        await connection.close()
    connection = await asyncpg.connect(template_url)
    try:
        await connection.execute(ROLES.read_text())
        for role in (MIGRATOR, SERVER_ROLE):
            await connection.execute(f"ALTER ROLE {role} PASSWORD '{PASSWORD}'")
    finally:
        await connection.close()
    await migrate(as_user(template_url, MIGRATOR))
    await grant_rights(as_user(template_url, MIGRATOR))
