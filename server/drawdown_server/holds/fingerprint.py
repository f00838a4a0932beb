"""The content of an Authorize in a few bytes, so that the same hold id with other content can be told apart, by field.

One digest per field, empty for an absent one: ``3xGk0Qa1.........``. 48 bits each; a caller who reuses an id with
other content escapes notice once in 2^48 times, and only harms its own books.
"""

from __future__ import annotations

from binascii import b2a_base64
from functools import lru_cache
from hashlib import blake2b
from typing import Final

FIELDS: Final = ("amounts", "alternatives", "ttl", "subjects", "overage_policy", "expiry_action", "labels")
"""The fields, in the order of their digests. Append only: holds in Redis outlive a release of the server."""

_DIGEST_BYTES: Final = 6
_REMEMBERED: Final = 1024
"""Digests: a ttl, labels and subjects are those of thousands of calls. Texts have at most a few KiB."""
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


def fingerprint(content: dict[str, str]) -> str:
    """Digest the content of a request.

    Args:
        content: Canonical text by field of ``FIELDS``; an absent field is left out or empty.
    """
    return ".".join([_digest(text) if (text := content.get(field)) else "" for field in FIELDS])


def refund_digest(amounts: dict[str, int]) -> str:
    """Digest the content of a refund: units by asset, in any order.

    A refund's event does not carry its digest; the ledger gets the same one from the event's lines.
    """
    return fingerprint({"amounts": " ".join(sorted(f"{asset}={units}" for asset, units in amounts.items() if units))})


def changed_field(first: str, second: str) -> str:
    """The name of the first field in which two fingerprints differ."""
    for field, one, other in zip(FIELDS, first.split("."), second.split("."), strict=False):
        if one != other:
            return field
    return FIELDS[-1]


@lru_cache(maxsize=_REMEMBERED)
def _digest(text: str) -> str:
    digest = blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest()
    return b2a_base64(digest, newline=False).translate(_URL_SAFE).decode()
