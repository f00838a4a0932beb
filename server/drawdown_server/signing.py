"""Bytes that are handed out signed and come back: who changed a bit of them is found out.

::

    version (1)   length of the key's id (1)   key id   content   HMAC-SHA256 of all before it (32)

They are signed, not secret. Pure: no input or output.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

_VERSION: Final = 1
_MAC_BYTES: Final = 32
_HEAD_BYTES: Final = 2


class UnreadableError(ValueError):
    """These bytes are none of ours."""


class AlteredError(ValueError):
    """The signature is not that of the key that the bytes name."""


class Signed(NamedTuple):
    """Bytes that were read."""

    content: bytes
    key_id: str
    is_genuine: bool
    """False when there is no key of that id here: nothing in the content may be believed."""


class Signer:
    """Signs and reads.

    Args:
        secrets: Secrets by the id of their key (ASCII, at most 255 characters). The first signs, all verify.
    """

    def __init__(self, secrets: Mapping[str, bytes]) -> None:
        # hmac's one-shot function looks its digest up each time; a copy of a keyed one costs half of it.
        self._keyed = {key_id: hmac.new(secret, digestmod="sha256") for key_id, secret in secrets.items()}
        self._head = b""
        for key_id in list(secrets)[:1]:
            self._head = bytes((_VERSION, len(key_id))) + key_id.encode()
            self._signing = self._keyed[key_id]

    @property
    def can_sign(self) -> bool:
        """Whether there is a key at all."""
        return bool(self._head)

    def sign(self, content: bytes) -> bytes:
        """The content, signed with the first key; there is one."""
        signed = self._head + content
        mac = self._signing.copy()
        mac.update(signed)
        return signed + mac.digest()

    def read(self, signed: bytes) -> Signed:
        """What was signed, and whether it may be believed.

        Raises:
            UnreadableError: It is nothing that was signed here.
            AlteredError: Its signature is not that of its key.
        """
        start = _HEAD_BYTES + (signed[1] if len(signed) > _HEAD_BYTES else 0)
        if len(signed) <= start + _MAC_BYTES or signed[0] != _VERSION:
            raise UnreadableError
        body = signed[:-_MAC_BYTES]
        key_id = body[_HEAD_BYTES:start].decode("ascii", "replace")
        keyed = self._keyed.get(key_id)
        if keyed is not None:
            mac = keyed.copy()
            mac.update(body)
            if not hmac.compare_digest(mac.digest(), signed[-_MAC_BYTES:]):
                raise AlteredError
        return Signed(body[start:], key_id, keyed is not None)


def derived_secrets(secrets: Mapping[str, bytes], purpose: str) -> dict[str, bytes]:
    """Secrets for one purpose: what they sign for it says nothing for another."""
    return {key_id: hmac.digest(secret, purpose.encode(), "sha256") for key_id, secret in secrets.items()}
