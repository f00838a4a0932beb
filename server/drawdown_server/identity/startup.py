"""Identity as the settings have it: what must be right before a server may listen, and how it is opened."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from drawdown_server.config import token_secrets
from drawdown_server.errors import ConfigurationError
from drawdown_server.identity.api_keys import Peppers
from drawdown_server.identity.caller import Caller
from drawdown_server.identity.certificates import MappedCertificates
from drawdown_server.identity.credentials import Credentials
from drawdown_server.identity.key_cache import KeyCache
from drawdown_server.identity.scopes import ALL_SCOPES
from drawdown_server.identity.wallet_tokens import WalletTokens

if TYPE_CHECKING:
    from drawdown_server.config import Config
    from drawdown_server.identity.key_cache import KeyReader


WITH_KEYS: Final = frozenset({"keys", "either"})
"""Settings of ``identity`` with which API keys are accepted."""
WITH_CERTIFICATES: Final = frozenset({"certificates", "either"})


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
    certificates: MappedCertificates | None = None
    """None: certificates name no callers."""

    async def run(self, stop: asyncio.Event) -> None:
        """Follow what changes, until told to stop."""
        async with asyncio.TaskGroup() as tasks:
            if self.secrets is not None:
                tasks.create_task(self.secrets.keys.run(stop), name="keys")
            if self.certificates is not None:
                tasks.create_task(self.certificates.run(stop), name="certificates")


async def open_identity(config: Config, reader: KeyReader) -> Identity:
    """Who may call, by the settings.

    Args:
        config: The settings.
        reader: Postgres.

    Raises:
        ConfigurationError: The file of certificates' callers has a mistake.
        StoreUnavailableError: Postgres did not answer.
    """
    secrets, certificates = None, None
    if config.api_key_pepper:
        by_id = token_secrets(config.api_key_pepper)
        peppers = Peppers(by_id)
        keys = KeyCache(reader, peppers, stale_max_s=config.api_key_stale_max_s)
        await keys.refresh()
        secrets = Secrets(peppers, WalletTokens(by_id), keys)
    if config.identity == "none":
        return Identity(Credentials(everybody=Caller(config.tenant, "", ALL_SCOPES)), secrets)
    if config.identity in WITH_CERTIFICATES and config.certificate_callers is not None:
        certificates = MappedCertificates(config.certificate_callers)
    if config.identity in WITH_KEYS and secrets is not None:
        credentials = Credentials(keys=secrets.keys, tokens=secrets.tokens, certificates=certificates)
    else:
        credentials = Credentials(certificates=certificates)
    return Identity(credentials, secrets, certificates)


def problems(config: Config) -> list[str]:
    """What is wrong, each with what to change."""
    found = []
    if config.identity in WITH_KEYS and not config.api_key_pepper:
        found.append(
            f"identity {config.identity} needs a secret to check API keys with: set DRAWDOWN_API_KEY_PEPPER, the same "
            "for every server; drawdown-server new-token-key prints one"
        )
    found += _certificate_problems(config)
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


def _certificate_problems(config: Config) -> list[str]:
    if config.identity not in WITH_CERTIFICATES:
        if config.certificate_callers is None:
            return []
        return [f"DRAWDOWN_CERTIFICATE_CALLERS: has no effect with identity {config.identity}: set DRAWDOWN_IDENTITY"]
    found = []
    if config.tls_client_ca is None:
        found.append(
            f"identity {config.identity} needs to know who signs certificates of callers: set DRAWDOWN_TLS_CLIENT_CA"
        )
    if config.certificate_callers is None:
        found.append(
            f"identity {config.identity} needs to know whom certificates name: set DRAWDOWN_CERTIFICATE_CALLERS"
        )
        return found
    try:
        MappedCertificates(config.certificate_callers)
    except ConfigurationError as error:
        found.append(f"DRAWDOWN_{str(error).replace('certificate_callers', 'CERTIFICATE_CALLERS', 1)}")
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
