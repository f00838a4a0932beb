"""The embedded stack: Valkey and Postgres on one data directory, for a machine that has neither."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from drawdown_server.config import new_token_key
from drawdown_server.dev.postgres import PostgresProcess
from drawdown_server.dev.process import DirectoryLock, EmbeddedStackError
from drawdown_server.dev.valkey import ValkeyProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

__all__ = ["EmbeddedStack", "EmbeddedStackError"]

DATABASE: Final = "drawdown"
TOKEN_KEY_FILE: Final = "hold-token-key"  # noqa: S105  # no password
"""In the data directory: it must be there as long as the holds that it signs."""
PEPPER_FILE: Final = "api-key-pepper"
"""In the data directory: it must be there as long as the API keys in the database."""


@dataclass(frozen=True, slots=True)
class EmbeddedStack:
    """Both servers, running."""

    valkey: ValkeyProcess
    postgres: PostgresProcess
    valkey_url: str
    postgres_url: str
    """Of the database ``drawdown``, which exists and is empty at first."""
    hold_token_keys: str
    """The setting of a server on this stack, so that it signs its holds."""
    api_key_pepper: str
    """The setting of a server on this stack, so that it knows its API keys."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        data_dir: Path,
        *,
        fresh: bool = False,
        valkey_port: int = 0,
        postgres_port: int = 0,
        fsync: bool = True,
    ) -> AsyncIterator[EmbeddedStack]:
        """Start both servers on a directory, and stop them at the end.

        Args:
            data_dir: Made when absent; keeps the data until the next run.
            fresh: Delete what is kept there first.
            valkey_port: Port on 127.0.0.1; 0 takes a free one.
            postgres_port: Port on 127.0.0.1; 0 takes a free one.
            fsync: False is for tests only: a crash of the machine may then lose data.

        Raises:
            EmbeddedStackError: The directory or a port is taken, or a server does not start.
        """
        lock = await asyncio.to_thread(claim, data_dir, fresh=fresh)
        try:
            inherit = (lock.fd,)
            async with (
                ValkeyProcess(
                    data_dir / "valkey", valkey_port, appendfsync="always" if fsync else "no", inherit=inherit
                ) as valkey,
                PostgresProcess(data_dir / "postgres", postgres_port, fsync=fsync, inherit=inherit) as postgres,
            ):
                postgres_url = await postgres.create_database(DATABASE)
                yield cls(
                    valkey,
                    postgres,
                    valkey.url,
                    postgres_url,
                    kept_key(data_dir / TOKEN_KEY_FILE),
                    kept_key(data_dir / PEPPER_FILE),
                )
        finally:
            lock.release()


def claim(data_dir: Path, *, fresh: bool) -> DirectoryLock:
    """Lock the data directory, made when absent, and empty it on demand."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = DirectoryLock(data_dir)
        for kept in ("valkey", "postgres") if fresh else ():
            if (data_dir / kept).exists():
                shutil.rmtree(data_dir / kept)
        for kept in (TOKEN_KEY_FILE, PEPPER_FILE) if fresh else ():
            (data_dir / kept).unlink(missing_ok=True)
    except OSError as error:
        raise EmbeddedStackError(f"data directory {data_dir} cannot be used: {error}") from error
    return lock


def kept_key(path: Path) -> str:
    """The key in a file, made on its first use, readable by its owner alone."""
    path.touch(mode=0o600)
    key = path.read_text()
    if not key:
        key = new_token_key()
        path.write_text(key)
    return key
