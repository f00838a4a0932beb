"""Wallet tokens: a platform's front end shows its customer the balance of one wallet, for a short while.

Text, ``ddw_`` and base64 of the bytes of ``signing.py``; their content is a msgpack array. Nothing is stored: a token
ends at its time. The keys that sign are derived from the pepper of the API keys. Pure: no input or output.
"""

from __future__ import annotations

from base64 import b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING, Final

import msgspec

from drawdown_server.signing import AlteredError, Signer, UnreadableError, derived_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX: Final = "ddw_"
TTL_DEFAULT_MS: Final = 900_000
"""15 min: as long as a page is looked at."""
TEXT_CHARS_MAX: Final = 1_024
"""The longest names make 470 characters; what is longer is not worth decoding."""


class WalletTokenContent(msgspec.Struct, frozen=True, array_like=True):
    """What a token says."""

    tenant_id: str
    wallet_id: str
    expire_ms: int


class WalletTokens:
    """Makes and reads tokens.

    Args:
        secrets: The peppers, by their ids. The first signs, all verify.
    """

    def __init__(self, secrets: Mapping[str, bytes]) -> None:
        self._signer = Signer(derived_secrets(secrets, "wallet token"))

    def make(self, content: WalletTokenContent) -> str:
        """The token that says this."""
        return PREFIX + urlsafe_b64encode(self._signer.sign(_encode(content))).rstrip(b"=").decode()

    def read(self, text: str) -> WalletTokenContent | None:
        """What a token says, which may have ended; None for what is no genuine token."""
        if not text.startswith(PREFIX) or len(text) > TEXT_CHARS_MAX:
            return None
        encoded = text[len(PREFIX) :]
        try:
            signed = self._signer.read(b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True))
            return _decode(signed.content) if signed.is_genuine else None
        except (UnreadableError, AlteredError, ValueError, msgspec.DecodeError):
            return None


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(WalletTokenContent).decode
