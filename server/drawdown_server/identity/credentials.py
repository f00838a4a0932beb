"""From what a call brings to its caller: an API key or a wallet token in ``authorization``, or a client certificate.

With a key and a certificate that names a tenant, both must be of the same tenant, and the scopes are the key's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from drawdown_server.identity.caller import Caller
from drawdown_server.identity.refusals import unauthenticated
from drawdown_server.identity.scopes import Scope
from drawdown_server.identity.wallet_tokens import PREFIX as WALLET_TOKEN_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from drawdown_server.identity.key_cache import KeyCache
    from drawdown_server.identity.wallet_tokens import WalletTokens

AUTHORIZATION: Final = "authorization"
"""The metadata key."""
SCHEME: Final = "Bearer "
_READ_ONLY: Final = frozenset({Scope.READ})


class Peer(Protocol):
    """What we need of grpc.aio's context."""

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """What the transport knows of the caller: the names in its certificate."""


class CertificateCallers(Protocol):
    """Who calls, by the certificate of the connection."""

    def caller_of(self, peer: Peer) -> Caller | None:
        """The caller that the certificate names; None without a certificate, or with one that names nobody."""


class Credentials:
    """Who calls.

    Args:
        everybody: The caller of every call, whatever it brings: no identity. The rest is then not looked at.
        keys: API keys, if they are accepted.
        tokens: Wallet tokens, accepted where keys are.
        certificates: Client certificates, if they are accepted.
    """

    def __init__(
        self,
        *,
        everybody: Caller | None = None,
        keys: KeyCache | None = None,
        tokens: WalletTokens | None = None,
        certificates: CertificateCallers | None = None,
    ) -> None:
        self._everybody = everybody
        self._keys = keys
        self._tokens = tokens
        self._certificates = certificates

    async def caller(self, metadata: Iterable[tuple[str, str | bytes]] | None, peer: Peer) -> Caller:
        """Who makes a call.

        Raises:
            DrawdownError: UNAUTHENTICATED: missing, malformed, unknown, expired and revoked are not told apart.
                STORE_UNAVAILABLE: a key that is not known here, and Postgres cannot be asked.
        """
        if self._everybody is not None:
            return self._everybody
        certified = None if self._certificates is None else self._certificates.caller_of(peer)
        header: str | bytes | None = None
        for name, value in metadata or ():
            if name == AUTHORIZATION:
                header = value if header is None else b""  # more than one is none
        if self._keys is None or header is None:
            if certified is None:
                raise unauthenticated()
            return certified
        if not isinstance(header, str) or not header.startswith(SCHEME):
            raise unauthenticated()
        text = header[len(SCHEME) :]
        caller = self._keys.peek(text)
        if caller is None:
            caller = self._of_token(text) if text.startswith(WALLET_TOKEN_PREFIX) else await self._keys.find(text)
        if certified is not None and certified.tenant_id != caller.tenant_id:
            raise unauthenticated()
        return caller

    def _of_token(self, text: str) -> Caller:
        content = None if self._tokens is None else self._tokens.read(text)
        if content is None or self._keys is None or content.expire_ms <= self._keys.now_ms():
            raise unauthenticated()
        return Caller(content.tenant_id, f"wallet:{content.wallet_id}", _READ_ONLY, content.wallet_id)
