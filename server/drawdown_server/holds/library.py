"""The hold scripts as one function library of Valkey/Redis.

The library is the Lua files of ``lua/`` joined in the order of ``PARTS``. Its name and its functions' names end in a
hash of that text, so two versions serve side by side during a rollout and a server can only ever call the scripts it
was tested with. Functions, unlike EVALSHA's cache, survive a restart of the store and are replicated.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from drawdown_server.holds.startup import unavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis

PARTS: Final = (
    "store.lua",
    "assets.lua",
    "verbs.lua",
    "grants.lua",
    "caps.lua",
    "holds.lua",
    "authorize.lua",
    "charge.lua",
    "commit.lua",
    "release.lua",
    "extend.lua",
    "refund.lua",
    "sweep.lua",
    "apply.lua",
    "load.lua",
    "evict.lua",
    "read.lua",
    "register.lua",
)
"""Shared files first: Lua sees only what stands above."""

BLOCKS: Final = frozenset(
    {"charge.lua", "commit.lua", "release.lua", "extend.lua", "refund.lua", "evict.lua", "read.lua"}
)
"""Parts whose names no other part uses. Each is a block of its own: Lua has room for 200 names in one."""

_HASH_CHARS: Final = 10


@dataclass(frozen=True, slots=True)
class Library:
    """A function library, ready to load."""

    name: str
    code: str
    suffix: str

    def function(self, verb: str) -> bytes:
        """The name under which a verb is registered."""
        return f"{verb}{self.suffix}".encode()


def build_library(sources: dict[str, str] | None = None) -> Library:
    """Join the Lua files.

    Args:
        sources: Text by file name, for tests that break a rule on purpose. Default: the package's own files.
    """
    if sources is None:
        sources = read_sources()
    body = "\n".join(f"do\n{sources[part]}\nend" if part in BLOCKS else sources[part] for part in PARTS)
    suffix = "_" + sha256(body.encode()).hexdigest()[:_HASH_CHARS]
    name = f"drawdown{suffix}"
    return Library(name=name, code=f"#!lua name={name}\nlocal SUFFIX = '{suffix}'\n{body}", suffix=suffix)


def read_sources() -> dict[str, str]:
    """The package's Lua files by name."""
    folder = files("drawdown_server.holds") / "lua"
    return {part: (folder / part).read_text(encoding="utf-8") for part in PARTS}


async def load_library(client: Redis, library: Library) -> None:
    """Load the library unless the store has it already.

    Raises:
        StoreUnavailableError: The store is not there now.
        redis.exceptions.ResponseError: The store does not accept the library.
    """
    try:
        await client.function_load(library.code)
    except Exception as error:
        if "already exists" not in str(error):
            raise unavailable(error) from error
