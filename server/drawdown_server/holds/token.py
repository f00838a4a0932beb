"""The token of a hold: what was held, signed, in the hands of the caller. For the day the store loses the hold.

Bytes, at most ``TOKEN_BYTES_MAX``::

    version (1)   length of the key's id (1)   key id   content: a msgpack array   HMAC-SHA256 of all before it (32)

It is signed, not secret: it says nothing that its caller has not said or been told. It is not looked at while the
store knows the hold. Pure: no input or output.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from drawdown_server.holds.model import ExpiryAction, OveragePolicy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from drawdown_server.holds.model import Hold

TOKEN_BYTES_MAX: Final = 4096
"""What the contract promises to callers that store tokens. All but the labels always fits; they are left out when
they do not: the entries of a hold that was lost may then lack them."""
TOKEN_LIFE_MS: Final = 7 * 86_400_000
"""After the hold's expiry. Whoever has not sent a Commit for a week is repeating something old."""

_VERSION: Final = 1
_MAC_BYTES: Final = 32
_HEAD_BYTES: Final = 2


class TokenError(ValueError):
    """The bytes are no token of ours; the message says why, as the end of a sentence about them."""


class TokenAmount(msgspec.Struct, frozen=True, array_like=True):
    """One asset that was held."""

    asset: str
    authorized: int
    """Units reserved in total when the token was made."""
    overage_policy: OveragePolicy


class TokenContent(msgspec.Struct, frozen=True, array_like=True):
    """What a token says. Fields are only ever added, at the end and with a default: old tokens outlive a release."""

    tenant_id: str
    wallet_id: str
    hold_id: str
    epoch: int
    """Of the partition, when the hold was there."""
    create_ms: int
    expire_ms: int
    fingerprint: str
    expiry_action: ExpiryAction
    way: int
    amounts: list[TokenAmount]
    subjects: list[str]
    labels: str
    """JSON object of strings; empty for none, or when they did not fit."""


class Token(NamedTuple):
    """A token that was read."""

    content: TokenContent
    key_id: str
    is_genuine: bool
    """False when this server has no key of that id: nothing in it may be believed."""


class TokenKeys:
    """Makes and reads tokens.

    Args:
        secrets: Secrets by the id of their key. The first signs, all verify. None at all: no tokens are made.
    """

    def __init__(self, secrets: Mapping[str, bytes]) -> None:
        # hmac's one-shot function looks its digest up each time; a copy of a keyed one costs half of it.
        self._keyed = {key_id: hmac.new(secret, digestmod="sha256") for key_id, secret in secrets.items()}
        self._head = b""
        for key_id in list(secrets)[:1]:
            self._head = bytes((_VERSION, len(key_id))) + key_id.encode()
            self._signing = self._keyed[key_id]

    def make(self, tenant_id: str, wallet_id: str, epoch: int, hold: Hold) -> bytes:
        """The token of a hold that is in the store; empty without a key to sign it with.

        Args:
            tenant_id: The tenant.
            wallet_id: The wallet.
            epoch: Of the wallet's partition, in which the script that answered the hold ran.
            hold: As that script answered it.
        """
        if not self._head:
            return b""
        content = TokenContent(
            tenant_id,
            wallet_id,
            hold.hold_id,
            epoch,
            hold.create_ms,
            hold.expire_ms,
            hold.fingerprint,
            hold.expiry_action,
            hold.way,
            [TokenAmount(amount.asset, amount.authorized, amount.overage_policy) for amount in hold.amounts],
            hold.subjects,
            hold.labels,
        )
        token = self.sign(content)
        return token if len(token) <= TOKEN_BYTES_MAX else self.sign(msgspec.structs.replace(content, labels=""))

    def sign(self, content: TokenContent) -> bytes:
        """The token that says this; there is a key to sign with."""
        signed = self._head + _encode(content)
        mac = self._signing.copy()
        mac.update(signed)
        return signed + mac.digest()

    def read(self, token: bytes) -> Token:
        """What a token says, and whether it may be believed.

        Raises:
            TokenError: It is no token, or its signature is not that of its key.
        """
        start = _HEAD_BYTES + (token[1] if len(token) > _HEAD_BYTES else 0)
        if len(token) <= start + _MAC_BYTES or token[0] != _VERSION:
            raise TokenError("must be a hold_token as this server's Authorize answers it")
        signed = token[:-_MAC_BYTES]
        key_id = signed[_HEAD_BYTES:start].decode("ascii", "replace")
        keyed = self._keyed.get(key_id)
        if keyed is not None:
            mac = keyed.copy()
            mac.update(signed)
            if not hmac.compare_digest(mac.digest(), token[-_MAC_BYTES:]):
                raise TokenError("must be unchanged: its signature does not match")
        try:
            return Token(_decode(signed[start:]), key_id, keyed is not None)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise TokenError("must be a hold_token as this server's Authorize answers it") from None


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(TokenContent).decode
