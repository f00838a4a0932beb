"""Protobuf's wire format, as far as messages are put into messages.

An answer is serialized once and then wrapped as bytes: setting it as a field of another message would copy it each
time, which costs more than making it.
"""

from __future__ import annotations

from typing import Final

_VARINT: Final = 0
_LENGTH_DELIMITED: Final = 2
_CONTINUES: Final = 0x80
_BITS: Final = 7


def message_field(number: int, message: bytes) -> bytes:
    """A field that is a message.

    Args:
        number: Of the field.
        message: Serialized.
    """
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(message)) + message


def number_field(number: int, value: int) -> bytes:
    """A field that is an unsigned number.

    Args:
        number: Of the field.
        value: Its value.
    """
    return _varint(number << 3 | _VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    if value < _CONTINUES:
        return bytes((value,))
    encoded = bytearray()
    while value >= _CONTINUES:
        encoded.append(value & (_CONTINUES - 1) | _CONTINUES)
        value >>= _BITS
    encoded.append(value)
    return bytes(encoded)
