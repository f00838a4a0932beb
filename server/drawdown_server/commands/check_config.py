"""``drawdown-server check-config``: the settings in force, and everything that is wrong with them at once."""

from __future__ import annotations

import asyncio
import os
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

import typer

from drawdown_server.app import check_schema, open_nodes_of
from drawdown_server.config import Config
from drawdown_server.errors import ConfigurationError, DrawdownError
from drawdown_server.holds.opening import check_nodes
from drawdown_server.identity.startup import problems as identity_problems
from drawdown_server.ledger.database import open_pool
from drawdown_server.ledger.partitions import PartitionCountError
from drawdown_server.ledger.store import LedgerStore
from drawdown_server.rpc.tls import open_certificate

if TYPE_CHECKING:
    from collections.abc import Iterable

PORT_MAX: Final = 65_535
PREFIX: Final = "DRAWDOWN_"
OF_SERVERS: Final = frozenset(PREFIX + name.upper() for name in Config.model_fields)
"""Variables of the environment that servers read."""
OF_CLIENTS: Final = frozenset({
    "DRAWDOWN_TARGET",
    "DRAWDOWN_API_KEY",
    "DRAWDOWN_PLAINTEXT_API_KEY",
    "DRAWDOWN_TLS",
    "DRAWDOWN_TLS_CA",
    "DRAWDOWN_CLIENT_CERTIFICATE",
    "DRAWDOWN_CLIENT_KEY",
})  # fmt: skip
"""Those that clients read, perhaps on the same machine."""


async def run_check_config(config: Config) -> int:
    """Print every setting, secrets masked, then what is wrong: a line each on stderr.

    Returns:
        The exit status: 1 when a server would not start.
    """
    values = config.masked()
    width = max(map(len, values))
    for name, value in values.items():
        typer.echo(f"{name:<{width}}  {value}")
    for name, close in unknown_variables(os.environ):
        typer.echo(f"warning: {name} is no setting{f', {close} is' if close else ''}", err=True)
    problems = await find_problems(config)
    for problem in problems:
        typer.echo(f"error: {problem}", err=True)
    if problems:
        return 1
    typer.echo("ok: a server can start with these settings")
    return 0


def unknown_variables(environment: Iterable[str]) -> list[tuple[str, str]]:
    """Names of variables that look like settings and are none, each with the setting that may be meant, or nothing.

    They keep no server from starting: a newer or an older release may know them.
    """
    settings = [name.removeprefix(PREFIX) for name in OF_SERVERS]
    found = []
    for name in sorted(environment):
        if name.upper().startswith(PREFIX) and name.upper() not in OF_SERVERS | OF_CLIENTS:
            close = get_close_matches(name.upper().removeprefix(PREFIX), settings, n=1)
            found.append((name, PREFIX + close[0] if close else ""))
    return found


async def find_problems(config: Config) -> list[str]:
    """Why a server could not start with these settings, each with what to change. Looks only, changes nothing."""
    postgres, valkey = await asyncio.gather(_postgres_problems(config), _valkey_problems(config))
    return postgres + valkey + port_problems(config) + _certificate_problems(config) + identity_problems(config)


async def _postgres_problems(config: Config) -> list[str]:
    try:
        await check_schema(config)
        async with open_pool(config) as pool:
            await LedgerStore(pool).check_partition_count(config.partitions)
    except PartitionCountError as error:
        return [f"DRAWDOWN_PARTITIONS: {error}"]
    except (ConfigurationError, DrawdownError) as error:
        return [f"DRAWDOWN_POSTGRES_URL: {error}"]
    return []


async def _valkey_problems(config: Config) -> list[str]:
    try:
        async with open_nodes_of(config) as nodes:
            await check_nodes(nodes)
    except (ConfigurationError, DrawdownError) as error:
        return [f"DRAWDOWN_VALKEY_URL: {error}"]
    return []


def _certificate_problems(config: Config) -> list[str]:
    try:
        open_certificate(config)
    except ConfigurationError as error:
        setting, _, rest = str(error).partition(": ")
        return [f"DRAWDOWN_{setting.upper()}: {rest}"]
    return []


def port_problems(config: Config) -> list[str]:
    """Ports that two of our own listeners would want. Whether others have them says the start: a server may run."""
    if not config.admin_port:
        return []
    ports = range(config.admin_port, config.admin_port + config.workers)
    found = []
    if ports[-1] > PORT_MAX:
        found.append(
            f"DRAWDOWN_ADMIN_PORT: {config.workers} workers need the ports from {ports[0]} to {ports[-1]}, and "
            f"{PORT_MAX} is the last that there is; choose a lower one"
        )
    for setting in ("grpc_port", "grpc_certificate_port"):
        port = getattr(config, setting)
        if port in ports:
            found.append(
                f"DRAWDOWN_ADMIN_PORT: the admin ports, {ports[0]} to {ports[-1]}, one for each worker, must not have "
                f"{port}, which is DRAWDOWN_{setting.upper()}; choose another"
            )
    return found
