"""``drawdown-server dev``: the whole product on a laptop, seeded, until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import typer

import drawdown
from drawdown_server.app import serve
from drawdown_server.config import Config
from drawdown_server.dev.key import dev_key
from drawdown_server.dev.seed import DEMO_WALLET, seed
from drawdown_server.dev.stack import PEPPER_FILE, EmbeddedStack, EmbeddedStackError, kept_key
from drawdown_server.errors import ConfigurationError
from drawdown_server.ledger.migrations import migrate
from drawdown_server.signals import stop_on_signals
from drawdown_server.telemetry.logs import configure_logs

VALKEY_URL: Final = "DRAWDOWN_VALKEY_URL"
POSTGRES_URL: Final = "DRAWDOWN_POSTGRES_URL"
HOLD_TOKEN_KEYS: Final = "DRAWDOWN_HOLD_TOKEN_KEYS"  # noqa: S105  # no password

API_KEY_PEPPER: Final = "DRAWDOWN_API_KEY_PEPPER"
IDENTITY: Final = "DRAWDOWN_IDENTITY"

# Without identity the key is empty, which does no harm.
HINTS: Final = """
Drawdown serves on {target}   (Valkey {valkey_url}, Postgres {postgres_url})

Try, in another terminal:

  export DRAWDOWN_API_KEY={api_key}
  {client} balance {wallet} --target {target}
  {client} authorize {wallet} '0.50 USD' '1200 MODEL_TOKENS' --hold-id req-1 --target {target}
  {client} commit {wallet} req-1 '0.31 USD' '800 MODEL_TOKENS' --target {target}
  {client} entries {wallet} --target {target}
  grpcurl -plaintext -H "authorization: Bearer $DRAWDOWN_API_KEY" \\
    -d '{{"wallet_id": "{wallet}"}}' {target} drawdown.v1.BalanceService/GetBalance

Ctrl-C stops everything; the data stays in {data_dir}, and so does the key.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Ports on 127.0.0.1; 0 takes a free one."""

    grpc: int
    valkey: int
    postgres: int


async def run_dev(data_dir: Path, ports: Ports, *, fresh: bool) -> None:
    """Start the stores unless the environment names others, then serve and seed.

    Raises:
        ConfigurationError: A port or directory is taken; the message says which.
    """
    configure_logs("WARNING", "console")
    if VALKEY_URL in os.environ and POSTGRES_URL in os.environ:
        await serve_seeded(dev_config(ports, data_dir), data_dir)
        return
    stop = asyncio.Event()
    try:
        # Signals are ours from the first moment: a Ctrl-C while the stores start must still stop them.
        with stop_on_signals(stop):
            async with EmbeddedStack.open(
                data_dir, fresh=fresh, valkey_port=ports.valkey, postgres_port=ports.postgres
            ) as stack:
                stores = {
                    "valkey_url": os.environ.get(VALKEY_URL, stack.valkey_url),
                    "postgres_url": os.environ.get(POSTGRES_URL, stack.postgres_url),
                    "hold_token_keys": os.environ.get(HOLD_TOKEN_KEYS, stack.hold_token_keys),
                }
                config = dev_config(ports, data_dir).model_copy(update=stores)
                await serve_seeded(config, data_dir, stop)
    except EmbeddedStackError as error:
        raise ConfigurationError(str(error)) from error


def dev_config(ports: Ports, data_dir: Path) -> Config:
    """The settings of a server for developers: with API keys, as in production, unless the environment says none."""
    if os.environ.get(IDENTITY) == "none":
        return Config(grpc_port=ports.grpc, reflection=True)
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    pepper = os.environ.get(API_KEY_PEPPER) or kept_key(data_dir / PEPPER_FILE)
    return Config(grpc_port=ports.grpc, reflection=True, identity="keys", api_key_pepper=pepper)


async def serve_seeded(config: Config, data_dir: Path, stop: asyncio.Event | None = None) -> None:
    """Migrate, serve, and seed as soon as the server accepts calls."""
    await migrate(config.postgres_url)
    api_key = await dev_key(config, data_dir) if config.identity == "keys" else ""
    stop = stop or asyncio.Event()
    started: asyncio.Queue[int] = asyncio.Queue()

    async def seed_when_ready() -> None:
        target = f"{config.grpc_host}:{await started.get()}"
        try:
            await seed(target, api_key)
        except drawdown.DrawdownError as error:
            stop.set()
            raise ConfigurationError(f"cannot seed: {error}. Try --fresh, or another --data-dir") from error
        typer.echo(hints(config, target, data_dir, api_key))

    seeding = asyncio.create_task(seed_when_ready(), name="seed")
    try:
        await serve(config, stop=stop, on_ready=started.put_nowait)
    finally:
        if not seeding.done():
            seeding.cancel()
        await asyncio.wait([seeding])
    if not seeding.cancelled():
        seeding.result()


def hints(config: Config, target: str, data_dir: Path, api_key: str) -> str:
    """What to type next, ready to paste."""
    masked = config.masked()
    return HINTS.format(
        client=client_command(),
        target=target,
        wallet=DEMO_WALLET,
        data_dir=data_dir,
        api_key=api_key,
        valkey_url=masked["valkey_url"],
        postgres_url=masked["postgres_url"],
    )


def client_command() -> str:
    """How to call the client's command line from here: the one installed beside this program."""
    program = Path(sys.executable).with_name("drawdown")
    here = Path.cwd()
    return str(program.relative_to(here) if program.is_relative_to(here) else program)
