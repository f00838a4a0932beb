from __future__ import annotations

import msgspec
import pytest

from drawdown_server.holds.model import UNITS_MAX
from drawdown_server.ledger.events import (
    CapDelta,
    Event,
    EventError,
    EventKind,
    Line,
    LineKind,
    NewerEventError,
    SettledAmount,
    decode,
    encode,
)

EVENT = Event(
    version=1,
    kind=EventKind.COMMIT,
    tenant_id="t",
    wallet_id="w",
    wallet_sequence=3,
    time_ms=1_800_000_000_123,
    change_number=0,
    hold_id="h",
    lines=[Line(LineKind.DEBIT, "USD", UNITS_MAX, "g")],
    amounts=[SettledAmount("USD", UNITS_MAX, UNITS_MAX, 0)],
    subjects=["key:1"],
    labels='{"a":"b"}',
    hold_create_ms=1_800_000_000_000,
    late=True,
    final=False,
    refund_id="",
    cap_usage=[CapDelta("key:1|USD|DAY|20000", -3)],
)


def test_an_event_survives_the_way_through_the_outbox() -> None:
    assert decode(encode(EVENT)) == EVENT


def test_the_positions_are_the_documented_ones() -> None:
    assert msgspec.msgpack.decode(encode(EVENT)) == [
        1,
        "COMMIT",
        "t",
        "w",
        3,
        1_800_000_000_123,
        0,
        "h",
        [["DEBIT", "USD", UNITS_MAX, "g"]],
        [["USD", UNITS_MAX, UNITS_MAX, 0, []]],
        ["key:1"],
        '{"a":"b"}',
        1_800_000_000_000,
        True,
        False,
        "",
        [["key:1|USD|DAY|20000", -3]],
    ]


@pytest.mark.parametrize("shape", [[2, "COMMIT"], [2, *msgspec.msgpack.decode(encode(EVENT))[1:]], [9, {}]])
def test_a_newer_version_is_named_and_is_no_poison(shape: list[object]) -> None:
    with pytest.raises(NewerEventError, match=rf"event of version {shape[0]}; this flusher understands version 1"):
        decode(msgspec.msgpack.encode(shape))


@pytest.mark.parametrize("version", [-1, 0, 1_001, 2**63])
def test_a_version_that_cannot_be_is_poison(version: int) -> None:
    with pytest.raises(EventError, match=f"event of version {version}") as caught:
        decode(msgspec.msgpack.encode([version, "COMMIT"]))
    assert not isinstance(caught.value, NewerEventError)


@pytest.mark.parametrize("raw", [b"", b"\xc1", b"hello", msgspec.msgpack.encode([]), msgspec.msgpack.encode({"a": 1})])
def test_what_is_no_event_is_refused(raw: bytes) -> None:
    with pytest.raises(EventError, match="not an event"):
        decode(raw)


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (1, "PARTY"),
        (2, ""),
        (4, 0),
        (4, UNITS_MAX + 1),
        (4, 1.5),
        (5, 10**15),
        (6, -1),
        (13, 1),
        (14, 1),
        (16, [["", 1]]),
    ],
)
def test_a_value_out_of_range_is_refused(position: int, value: object) -> None:
    values = msgspec.msgpack.decode(encode(EVENT))
    values[position] = value
    with pytest.raises(EventError, match="not an event"):
        decode(msgspec.msgpack.encode(values))


@pytest.mark.parametrize("units", [0, -1, UNITS_MAX + 1])
def test_units_are_at_least_one_and_exact_in_lua(units: int) -> None:
    values = msgspec.msgpack.decode(encode(EVENT))
    values[8] = [["DEBIT", "USD", units, "g"]]
    with pytest.raises(EventError):
        decode(msgspec.msgpack.encode(values))


def test_a_field_too_many_is_refused_because_it_would_be_lost() -> None:
    values = msgspec.msgpack.decode(encode(EVENT))
    with pytest.raises(EventError):
        decode(msgspec.msgpack.encode([*values, "new"]))


def test_a_name_that_postgres_cannot_look_up_is_refused() -> None:
    with pytest.raises(EventError, match="NUL"):
        decode(encode(msgspec.structs.replace(EVENT, wallet_id="w\0")))
