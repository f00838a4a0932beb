"""Identity as the settings have it: what must be right before a server may listen, and how it is opened."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from drawdown_server.config import token_secrets
from drawdown_server.errors import ConfigurationError
from drawdown_server.identity.api_keys import Peppers
from drawdown_server.identity.caller import Caller
from drawdown_server.identity.credentials import Credentials
from drawdown_server.identity.key_cache import KeyCache
from drawdown_server.identity.scopes import ALL_SCOPES
from drawdown_server.identity.wallet_tokens import WalletTokens

if TYPE_CHECKING:
    import asyncio

    from drawdown_server.config import Config
    from drawdown_server.identity.key_cache import KeyReader


@dataclass(frozen=True, slots=True)
class Secrets:
    """What needs the pepper."""

    peppers: Peppers
    tokens: WalletTokens
    keys: KeyCache


@dataclass(frozen=True, slots=True)
class Identity:
    """Who may call, ready to be asked."""

    credentials: Credentials
    secrets: Secrets | None
    """None without a pepper: there are then no keys and no wallet tokens."""

    async def run(self, stop: asyncio.Event) -> None:
        """Follow what changes, until told to stop."""
        if self.secrets is not None:
            await self.secrets.keys.run(stop)


async def open_identity(config: Config, reader: KeyReader) -> Identity:
    """Who may call, by the settings.

    Args:
        config: The settings.
        reader: Postgres.

    Raises:
        StoreUnavailableError: Postgres did not answer.
    """
    secrets = None
    if config.api_key_pepper:
        by_id = token_secrets(config.api_key_pepper)
        peppers = Peppers(by_id)
        keys = KeyCache(reader, peppers, stale_max_s=config.api_key_stale_max_s)
        await keys.refresh()
        secrets = Secrets(peppers, WalletTokens(by_id), keys)
    if config.identity == "none" or secrets is None:
        return Identity(Credentials(everybody=Caller(config.tenant, "", ALL_SCOPES)), secrets)
    return Identity(Credentials(keys=secrets.keys, tokens=secrets.tokens), secrets)


def problems(config: Config) -> list[str]:
    """What is wrong, each with what to change."""
    found = []
    if config.identity == "keys" and not config.api_key_pepper:
        found.append(
            "identity keys needs a secret to check API keys with: set DRAWDOWN_API_KEY_PEPPER, the same for every "
            "server; drawdown-server new-token-key prints one"
        )
    lacking = []
    if config.identity == "none":
        lacking.append("identity, so whoever reaches it could move money (DRAWDOWN_IDENTITY)")
    if config.tls_certificate is None:
        lacking.append("TLS, so whoever sees its traffic would have the keys in it (DRAWDOWN_TLS_CERTIFICATE)")
    if lacking and not is_loopback(config.grpc_host) and not config.insecure_network:
        found.append(
            f"the server would listen on {config.grpc_host}, beyond this machine, without "
            f"{' and without '.join(lacking)}; listen on 127.0.0.1, or set "
            "DRAWDOWN_INSECURE_NETWORK=true if something else protects that network"
        )
    return found


def check(config: Config) -> None:
    """Refuse to listen with these settings.

    Raises:
        ConfigurationError: With everything that is wrong.
    """
    found = problems(config)
    if found:
        raise ConfigurationError("; ".join(found))


def is_loopback(host: str) -> bool:
    """Whether nobody beyond this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False  # a name, which may be anything
