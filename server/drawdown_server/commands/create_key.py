"""``drawdown-server create-key``: the first key of a tenant, which makes the others. Written to Postgres directly."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import typer

from drawdown_server.commands.opening import open_ledger
from drawdown_server.errors import ConfigurationError
from drawdown_server.identity.admin_call import AdminCall, set_admin_call
from drawdown_server.identity.caller import Caller
from drawdown_server.identity.scopes import ALL_SCOPES, Scope
from drawdown_server.identity.startup import open_identity
from drawdown_server.wallets.keys import KeyAdmin

if TYPE_CHECKING:
    from drawdown_server.config import Config

_ID: Final = re.compile(r"[A-Za-z0-9._:@/-]{1,128}")
OPERATOR: Final = "operator"
"""The principal of who can write to Postgres."""
METHOD: Final = "create-key"
"""What the audit log says instead of the name of an RPC."""


async def run_create_key(config: Config, *, tenant_id: str, key_id: str, scopes: str) -> int:
    """Create a key and print its secret, alone on stdout.

    Args:
        config: The settings; the pepper is that of the servers.
        tenant_id: The tenant; there need be nothing of it yet.
        key_id: The tenant's id for the key.
        scopes: Names of scopes, with commas between them.

    Raises:
        ConfigurationError: There is no pepper, a name breaks a rule, or the key exists.
        StoreUnavailableError: Postgres did not answer.
    """
    if not config.api_key_pepper:
        raise ConfigurationError("set DRAWDOWN_API_KEY_PEPPER to that of the servers; new-token-key prints a new one")
    for name, value in (("--tenant", tenant_id), ("--key-id", key_id)):
        if not _ID.fullmatch(value):
            raise ConfigurationError(f"{name} must be 1-128 of [A-Za-z0-9._:@/-]")
    wanted = parse_scopes(scopes)
    request = {"key_id": key_id, "scopes": sorted(wanted)}
    set_admin_call(AdminCall(tenant_id, OPERATOR, METHOD, "", f"key:{key_id}", request, ""))
    async with open_ledger(config) as ledger:
        admin = KeyAdmin(ledger, (await open_identity(config, ledger)).secrets)
        _, secret = await admin.create_key(
            Caller(tenant_id, OPERATOR, ALL_SCOPES),
            key_id=key_id,
            display_name="",
            scopes=wanted,
            expire_ms=0,
        )
    if not secret:
        raise ConfigurationError(f"key {key_id} exists; its secret was told when it was made. Choose another --key-id")
    typer.echo(secret)
    return 0


def parse_scopes(text: str) -> frozenset[Scope]:
    """Scopes from their names.

    Raises:
        ConfigurationError: One is unknown, or there is none.
    """
    names = {name.strip() for name in text.split(",")}
    if not names <= set(Scope):
        raise ConfigurationError(f"--scopes must be some of {','.join(Scope)}")
    return frozenset(Scope(name) for name in names)
