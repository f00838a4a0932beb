"""Page tokens: where the next page begins, bound to the filters of the list.

Opaque to callers: base64 of msgpack. A token of another list, another filter or another version is refused.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final, TypeVar, cast

import msgspec

from drawdown_server.errors import InvalidRequestError, Violation
from drawdown_server.rpc.validation import ID_CHARS_MAX

_C = TypeVar("_C", bound="tuple[int | str, ...]")
_INT64: Final = 2**63


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
        decoded = msgspec.msgpack.decode(raw, type=tuple[tuple[str, ...], cursor_type])  # type: ignore[valid-type]
        used_filters, cursor = cast("tuple[tuple[str, ...], _C]", decoded)
    except (ValueError, msgspec.MsgspecError):
        used_filters, cursor = (), first
    if used_filters != filters or not all(_is_plausible(part) for part in cursor):
        raise InvalidRequestError(
            [Violation("page_token", "must be the next_page_token of this list, with its filters")]
        )
    return cursor


def _is_plausible(part: int | str) -> bool:
    """Whether a part of a cursor could have come from us: it goes into queries."""
    if isinstance(part, int):
        return 0 <= part < _INT64
    return len(part) <= ID_CHARS_MAX and part.isprintable()
