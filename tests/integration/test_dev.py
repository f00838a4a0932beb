"""`drawdown-server dev` as a developer meets it: the README's first calls, with the key that it made."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

import drawdown
import stores
from faults.processes import environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from drawdown_server.config import Config

WAIT_S: Final = 120.0
"""A first start makes a database."""
ROOT: Final = Path(__file__).parents[2]


@asynccontextmanager
async def dev(data_dir: Path, variables: dict[str, str]) -> AsyncIterator[tuple[str, str]]:
    """A run of it: where it serves, and what it printed until then."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DRAWDOWN_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "drawdown_server", "dev", "--grpc-port", "0", "--data-dir", str(data_dir),
        env=inherited | variables, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        printed = ""
        async with asyncio.timeout(WAIT_S):
            while "Ctrl-C" not in printed:
                line = await process.stdout.readline()
                assert line, f"it ended: {printed}"
                printed += line.decode()
        yield printed.partition("serves on ")[2].split()[0], printed
    finally:
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.communicate(), WAIT_S)


def stores_of(config: Config) -> dict[str, str]:
    """Dev on stores that run already, as whoever may migrate them: it does that itself."""
    config = config.model_copy(update={"postgres_url": stores.as_user(config.postgres_url, stores.MIGRATOR)})
    names = ("DRAWDOWN_VALKEY_URL", "DRAWDOWN_POSTGRES_URL", "DRAWDOWN_PARTITIONS")
    return {name: value for name, value in environment(config).items() if name in names}


async def test_the_key_in_the_file_opens_the_demo_wallet_and_stays_the_same(config: Config, data_dir: Path) -> None:
    keys = []
    for _ in range(2):
        async with dev(data_dir, stores_of(config)) as (target, printed):
            key = (data_dir / "api-key").read_text()
            keys.append(key)
            assert f"export DRAWDOWN_API_KEY={key}" in printed
            async with drawdown.AsyncClient(target, api_key=key) as client:
                balance = await client.get_balance(wallet_id="demo")
                assert balance.balances["USD"].available_units == 100 * 10**6
                mine = await client.create_api_key(key_id="mine", scopes=[drawdown.Scope.READ])
                assert mine.replayed is (len(keys) == 2)
            async with drawdown.AsyncClient(target, api_key="") as nobody:
                with pytest.raises(drawdown.UnauthenticatedError):
                    await nobody.get_balance(wallet_id="demo")
    assert keys[0] == keys[1]
    for name in ("api-key", "api-key-pepper"):
        assert stat.S_IMODE((data_dir / name).stat().st_mode) == 0o600


async def test_a_key_that_was_revoked_is_followed_by_another(config: Config, data_dir: Path) -> None:
    async with dev(data_dir, stores_of(config)) as (target, _):
        key = (data_dir / "api-key").read_text()
        async with drawdown.AsyncClient(target, api_key=key) as client:
            await client.revoke_api_key(key_id=f"dev-{key[4:16]}")
    async with dev(data_dir, stores_of(config)) as (target, _):
        other = (data_dir / "api-key").read_text()
        assert other != key
        async with drawdown.AsyncClient(target, api_key=other) as client:
            assert "USD" in (await client.get_balance(wallet_id="demo")).balances


async def test_without_identity_no_key_is_made(config: Config, data_dir: Path) -> None:
    async with dev(data_dir, stores_of(config) | {"DRAWDOWN_IDENTITY": "none"}) as (target, _):
        assert not data_dir.exists()  # noqa: ASYNC240
        async with drawdown.AsyncClient(target, api_key="") as client:
            assert "USD" in (await client.get_balance(wallet_id="demo")).balances


def test_the_first_calls_of_the_readme_use_the_key_of_the_file() -> None:
    first_calls = (ROOT / "README.md").read_text().partition("## First calls")[2].partition("\n## ")[0]
    assert "export DRAWDOWN_API_KEY=$(cat .drawdown/api-key)" in first_calls
