"""Page tokens: where the next page begins, bound to the filters of the list.

Opaque to callers: base64 of msgpack. A token of another list, another filter or another version is refused.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TypeVar

import msgspec

from drawdown_server.errors import InvalidRequestError, Violation

_C = TypeVar("_C")


def encode_token(filters: tuple[str, ...], cursor: tuple[int | str, ...]) -> str:
    """A token for the page after ``cursor`` of the list with these filters."""
    return urlsafe_b64encode(msgspec.msgpack.encode((filters, cursor))).rstrip(b"=").decode()


def decode_token(token: str, filters: tuple[str, ...], cursor_type: type[_C], first: _C) -> _C:
    """The cursor of a token; ``first`` for the empty token.

    Raises:
        InvalidRequestError: The token is not one of this list.
    """
    if token == "":
        return first
    try:
        raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
        used_filters, cursor = msgspec.msgpack.decode(raw, type=tuple[tuple[str, ...], cursor_type])  # type: ignore[valid-type]
    except (ValueError, msgspec.MsgspecError):
        used_filters, cursor = None, first
    if used_filters != filters:
        raise InvalidRequestError(
            [Violation("page_token", "must be the next_page_token of this list, with its filters")]
        )
    return cursor
