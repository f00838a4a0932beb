"""Requests that nobody should send, made by hypothesis from the descriptors of the API's messages.

``damaged`` takes a valid request and puts hostile values into some of its fields, so that what comes of it gets past
the first check about as often as not. ``garbled`` breaks the bytes of a message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from google.protobuf.descriptor import FieldDescriptor
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message
    from hypothesis.strategies import DrawFn, SearchStrategy

FIELDS_DAMAGED_MAX: Final = 2
DEPTH_MAX: Final = 3
"""Of messages in messages. Deeper than any of ours, and of what JSON-like values allow."""
ENTRIES_MAX: Final = 20
"""More than any list of a request may have."""

TEXTS: Final = (
    "", " ", "a b", "{a}", "a}", "a\n", "\0", "a\0b", "ü", "😀", "\u202ea", "\ufeff", "\x1b[31m", "a|b", "usd", "**",
    "'; DROP TABLE entries; --", "%s%n", "${jndi:ldap://x}", "../../etc/passwd", "nan", "1e309", "x" * 129, "y" * 5_000,
)  # fmt: skip
ALLOWED_TEXTS: Final = (
    "USD", "TOKENS", "NOPE", "USD", "TOKENS", "open", "settled", "new", "g-USD", "head", "null", "-0", "k:a", "x" * 128,
)  # fmt: skip
"""Within the rules, and not what the server expects at this place."""
INTEGERS: Final = (-1, 2**31 - 1, 2**31, -(2**31), 2**53, 2**62, 2**63 - 1, -(2**63))
ALLOWED_INTEGERS: Final = (0, 1, 2, 5, 10, 60, 100, 3_600, 4_000_000_000, 2**53 - 2, 2**53 - 1)
_INT32 = (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SFIXED32)
_UINT64 = (FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64)
_INT64 = (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_SINT64, FieldDescriptor.TYPE_SFIXED64)


def integers(bits: int) -> SearchStrategy[int]:
    """Integers: two of three are within the rules of most fields."""
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    allowed, edges = ([n for n in values if least <= n <= most] for values in (ALLOWED_INTEGERS, INTEGERS))
    return st.one_of(
        st.sampled_from(allowed), st.sampled_from(allowed), st.sampled_from(edges) | st.integers(least, most)
    )


def texts() -> SearchStrategy[str]:
    """Texts: two of three are within the rules of most fields."""
    allowed = st.sampled_from(ALLOWED_TEXTS)
    return st.one_of(allowed, allowed, st.sampled_from(TEXTS) | st.text(st.characters(codec="utf-8"), max_size=200))


def scalars(field: FieldDescriptor) -> SearchStrategy[Any]:
    """Hostile values of one field that is no message."""
    if field.type == FieldDescriptor.TYPE_STRING:
        return texts()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=200) | st.just(b"\xff" * 5_000)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_ENUM:
        return st.one_of(st.integers(0, 3), st.integers(0, 3), st.integers(-2, 10) | integers(32))
    return _numbers(field)


def _numbers(field: FieldDescriptor) -> SearchStrategy[int]:
    if field.type in _INT32:
        return integers(32)
    if field.type in _UINT64:
        return st.sampled_from((0, 1, 2**63, 2**64 - 1))
    assert field.type in _INT64, f"{field.full_name}: say what is hostile in a field of this type"
    return integers(64)


@st.composite
def messages(draw: DrawFn, make: Callable[[], Message], depth: int = 0) -> Message:
    """A message all of whose fields may be hostile."""
    message = make()
    for field in message.DESCRIPTOR.fields:
        if depth < DEPTH_MAX and draw(st.booleans()):
            _damage_field(draw, message, field, depth)
    return message


@st.composite
def damaged(draw: DrawFn, request: Message) -> Message:
    """A copy of a request with one or two hostile fields."""
    copy = type(request).FromString(request.SerializeToString())
    fields = list(copy.DESCRIPTOR.fields)
    if fields:
        most = min(FIELDS_DAMAGED_MAX, len(fields))
        for field in draw(st.lists(st.sampled_from(fields), min_size=1, max_size=most, unique_by=lambda f: f.name)):
            _damage_field(draw, copy, field, 0)
    return copy


def _damage_field(draw: DrawFn, message: Message, field: FieldDescriptor, depth: int) -> None:
    message.ClearField(field.name)
    target = getattr(message, field.name)
    if not field.is_repeated:
        if field.message_type is None:
            setattr(message, field.name, draw(scalars(field)))
        else:
            target.CopyFrom(draw(messages(type(target), depth + 1)))
        return
    count = draw(st.sampled_from((0, 1, 1, 1, 2, 3, ENTRIES_MAX)))
    if _is_map(field.message_type):
        values = scalars(field.message_type.fields_by_name["value"])
        for _ in range(count):
            target[draw(texts())] = draw(values)
    elif field.message_type is None:
        target.extend(draw(scalars(field)) for _ in range(count))
    else:
        for _ in range(count):
            entry = target.add()
            entry.CopyFrom(draw(messages(type(entry), depth + 1)))


def _is_map(message_type: Descriptor | None) -> bool:
    return message_type is not None and message_type.GetOptions().map_entry


@st.composite
def garbled(draw: DrawFn, request: Message) -> bytes:
    """The bytes of a request, cut, doubled, or with some of them changed; or any bytes at all."""
    raw = bytearray(request.SerializeToString())
    way = draw(st.sampled_from(("any", "cut", "doubled", "changed", "tail")))
    if way == "any" or not raw:
        return draw(st.binary(max_size=500))
    at = draw(st.integers(0, len(raw) - 1))
    if way == "cut":
        return bytes(raw[:at])
    if way == "doubled":
        return bytes(raw[at:] + raw)
    if way == "tail":
        return bytes(raw) + draw(st.binary(min_size=1, max_size=20))
    for _ in range(draw(st.integers(1, 4))):
        raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    return bytes(raw)
