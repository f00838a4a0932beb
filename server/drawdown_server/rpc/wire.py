"""Protobuf's wire format, as far as messages are put into messages.

An answer is serialized once and then wrapped as bytes: setting it as a field of another message would copy it each
time, which costs more than making it.
"""

from __future__ import annotations

from typing import Final

_LENGTH_DELIMITED: Final = 2
_CONTINUES: Final = 0x80
_BITS: Final = 7


def field(number: int, message: bytes) -> bytes:
    """A field that is a message.

    Args:
        number: Of the field.
        message: Serialized.
    """
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(message)) + message


def _varint(value: int) -> bytes:
    if value < _CONTINUES:
        return bytes((value,))
    encoded = bytearray()
    while value >= _CONTINUES:
        encoded.append(value & (_CONTINUES - 1) | _CONTINUES)
        value >>= _BITS
    encoded.append(value)
    return bytes(encoded)
