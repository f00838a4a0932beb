"""API keys as callers hold them: ``ddk_<secret id>_<secret><checksum>``. What is stored of one is an HMAC.

The secret id leads to the key's row; it is no secret, and names the text in lists and logs. The checksum tells a key
that was cut off or mistyped, and lets scanners find real keys in what people publish. The HMAC's secret, the pepper, is
not in the database: who reads that alone can neither use a key nor make one. Pure: no input or output.
"""

from __future__ import annotations

import hmac
import re
import secrets
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from drawdown_server.signing import derived_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from drawdown_server.identity.scopes import Scope

PREFIX: Final = "ddk_"
"""Begins every key: what secret scanners look for."""
SECRET_ID_CHARS: Final = 12
"""71 bits: no two keys of an installation will ever have the same."""
SECRET_CHARS: Final = 43
"""256 bits, as much as the digest."""
CHECKSUM_CHARS: Final = 6
"""A CRC-32."""
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""A double click selects all of it."""
_FORM: Final = re.compile(
    rf"{PREFIX}([0-9A-Za-z]{{{SECRET_ID_CHARS}}})_[0-9A-Za-z]{{{SECRET_CHARS}}}([0-9A-Za-z]{{{CHECKSUM_CHARS}}})"
)


def new_key() -> str:
    """A key that nobody has."""
    body = PREFIX + _random(SECRET_ID_CHARS) + "_" + _random(SECRET_CHARS)
    return body + _checksum(body)


def secret_id_of(text: str) -> str | None:
    """The secret id of a key; None for what is none."""
    found = _FORM.fullmatch(text)
    if found is None or _checksum(text[:-CHECKSUM_CHARS]) != found[2]:
        return None
    return found[1]


def _random(chars: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(chars))


def _checksum(body: str) -> str:
    rest, digits = zlib.crc32(body.encode()), ""
    for _ in range(CHECKSUM_CHARS):
        rest, digit = divmod(rest, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits


class SecretDigest(NamedTuple):
    """What is stored of a key's text."""

    secret_id: str
    pepper_id: str
    digest: bytes


class Peppers:
    """Makes and compares digests.

    Args:
        secrets: Secrets by their ids. The first is used for new keys, all for those that there are.
    """

    def __init__(self, secrets: Mapping[str, bytes]) -> None:
        self._secrets = derived_secrets(secrets, "api key")

    def __contains__(self, pepper_id: str) -> bool:
        return pepper_id in self._secrets

    def digest(self, text: str) -> SecretDigest:
        """What to store of a new key.

        Raises:
            ValueError: It is no key.
        """
        secret_id = secret_id_of(text)
        if secret_id is None:
            raise ValueError("this is no key")
        pepper_id = next(iter(self._secrets))
        return SecretDigest(secret_id, pepper_id, hmac.digest(self._secrets[pepper_id], text.encode(), "sha256"))

    def is_of(self, text: str, pepper_id: str, digest: bytes) -> bool:
        """Whether this is the text of which the digest was stored."""
        pepper = self._secrets.get(pepper_id)
        return pepper is not None and hmac.compare_digest(hmac.digest(pepper, text.encode(), "sha256"), digest)


class SecretRecord(NamedTuple):
    """What Postgres has of one secret of a key."""

    secret_id: str
    tenant_id: str
    key_id: str
    scopes: frozenset[Scope]
    pepper_id: str
    digest: bytes
    revision: int
    """Of the key: another one after every change."""
    end_ms: int
    """It counts until then, by Postgres' clock: it or its key expires, or the key was revoked. 0: for ever."""
