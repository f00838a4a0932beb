"""Protobuf's wire format: what callers send, and messages that are put into messages.

An answer is serialized once and then wrapped as bytes: setting it as a field of another message would copy it each
time, which costs more than making it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from google.protobuf.message import DecodeError

from drawdown_server.errors import InvalidRequestError, Violation, request_too_large

if TYPE_CHECKING:
    from collections.abc import Callable

_Request = TypeVar("_Request")
_VARINT: Final = 0
_LENGTH_DELIMITED: Final = 2
_CONTINUES: Final = 0x80
_BITS: Final = 7
_ONE_BYTE: Final = [bytes((value,)) for value in range(_CONTINUES)]


def parsed(raw: bytes, deserialize: Callable[[bytes], _Request], bytes_max: int) -> _Request:
    """The request that a caller's bytes are.

    Raises:
        DrawdownError: REQUEST_TOO_LARGE, or INVALID_FIELD when they are no message.
    """
    if len(raw) > bytes_max:
        raise request_too_large(bytes_max)
    try:
        return deserialize(raw)
    except DecodeError:
        raise InvalidRequestError([Violation("request", "must be a message of this method")]) from None


def message_key(number: int) -> bytes:
    """What comes before the length of a field that is a message, for ``message_field``."""
    return _varint(number << 3 | _LENGTH_DELIMITED)


def message_field(key: bytes, message: bytes) -> bytes:
    """A field that is a message.

    Args:
        key: ``message_key`` of the field.
        message: Serialized.
    """
    return key + _varint(len(message)) + message


def number_key(number: int) -> bytes:
    """What comes before the value of a field that is an unsigned number, for ``number_field``."""
    return _varint(number << 3 | _VARINT)


def number_field(key: bytes, value: int) -> bytes:
    """A field that is an unsigned number.

    Args:
        key: ``number_key`` of the field.
        value: Its value.
    """
    return key + _varint(value)


def _varint(value: int) -> bytes:
    if value < _CONTINUES:
        return _ONE_BYTE[value]
    encoded = bytearray()
    while value >= _CONTINUES:
        encoded.append(value & (_CONTINUES - 1) | _CONTINUES)
        value >>= _BITS
    encoded.append(value)
    return bytes(encoded)
