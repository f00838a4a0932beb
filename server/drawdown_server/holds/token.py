"""The token of a hold: what was held, signed, in the hands of the caller. For the day the store loses the hold.

The bytes of ``signing.py``, at most ``TOKEN_BYTES_MAX``; their content is a msgpack array.

It is signed, not secret: it says nothing that its caller has not said or been told. It is not looked at while the
store knows the hold. Pure: no input or output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from drawdown_server.holds.model import ExpiryAction, OveragePolicy
from drawdown_server.signing import AlteredError, Signer, UnreadableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from drawdown_server.holds.model import Hold

TOKEN_BYTES_MAX: Final = 4096
"""What the contract promises to callers that store tokens. All but the labels always fits; they are left out when
they do not: the entries of a hold that was lost may then lack them."""
TOKEN_LIFE_MS: Final = 7 * 86_400_000
"""After the hold's expiry. Whoever has not sent a Commit for a week is repeating something old."""

_UNREADABLE: Final = "must be a hold_token as this server's Authorize answers it"


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
        self._signer = Signer(secrets)

    def make(self, tenant_id: str, wallet_id: str, epoch: int, hold: Hold) -> bytes:
        """The token of a hold that is in the store; empty without a key to sign it with.

        Args:
            tenant_id: The tenant.
            wallet_id: The wallet.
            epoch: Of the wallet's partition, in which the script that answered the hold ran.
            hold: As that script answered it.
        """
        if not self._signer.can_sign:
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
        return self._signer.sign(_encode(content))

    def read(self, token: bytes) -> Token:
        """What a token says, and whether it may be believed.

        Raises:
            TokenError: It is no token, or its signature is not that of its key.
        """
        try:
            signed = self._signer.read(token)
            return Token(_decode(signed.content), signed.key_id, signed.is_genuine)
        except AlteredError:
            raise TokenError("must be unchanged: its signature does not match") from None
        except (UnreadableError, msgspec.DecodeError, UnicodeDecodeError):
            raise TokenError(_UNREADABLE) from None


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(TokenContent).decode
