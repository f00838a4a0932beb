"""The events in the outbox: what the hold scripts write and the flusher records.

One stream entry has one field, ``e``: a msgpack array. The Lua scripts write the same positions, so a change here is
a change of ``VERSION``, and the flusher is rolled out before the scripts that write it.

====  ==================  =================================================================================
 pos  field               value
====  ==================  =================================================================================
   1  version             1
   2  kind                GRANT STATE COMMIT EXPIRE REFUND VOID ADJUST
   3  tenant_id
   4  wallet_id
   5  wallet_sequence     >= 1, +1 per event of the wallet, gapless
   6  time_ms             when it happened, by Valkey's clock
   7  change_number       the change from Postgres that this event applied; 0 for usage
   8  hold_id             "" = none
   9  lines               array of [kind, asset, units, grant_id]; may be empty
  10  amounts             array of [asset, authorized, debited, uncollected]; of a COMMIT, else empty
  11  subjects            array of strings
  12  labels              JSON object of strings; "" = none
  13  hold_create_ms      when the hold was authorized; 0 = no hold
  14  late                true: committed after the hold had expired
====  ==================  =================================================================================

Positions count from 1, as in Lua. All amounts are units (integers in the asset's smallest unit).

What a line does to the wallet (``settled = granted - debited - expired``), and its two accounts:

=======  =================  ============================  =====================  ===================================
kind     balance            grant (or debt, grant_id "")  debit account          credit account
=======  =================  ============================  =====================  ===================================
GRANT    granted + units    row exists with all units     funding:<source>       wallet:<wallet_id>
DEBIT    debited + units    remaining - (debt +)          wallet:<wallet_id>     revenue
EXPIRE   expired + units    remaining -                   wallet:<wallet_id>     breakage
REFUND   debited - units    remaining + (debt -)          revenue                wallet:<wallet_id>
VOID     granted - units    remaining -                   wallet:<wallet_id>     funding:<source>
ADJUST   granted + units    remaining + (debt -)          adjustments            wallet:<wallet_id>
=======  =================  ============================  =====================  ===================================

A grant that repays debt needs no kind of its own: after its GRANT line the event carries ``REFUND units ""`` (the
debt shrinks) and ``DEBIT units grant_id`` (the grant pays instead); the balance is the same before and after.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import msgspec

from drawdown_server.holds.model import UNITS_MAX

VERSION: Final = 1
FIELD: Final = b"e"
"""Name of the one field of a stream entry."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=UNITS_MAX)]
_Number = Annotated[int, msgspec.Meta(ge=1, le=UNITS_MAX)]
_Time = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_999)]  # milliseconds, up to the end of the year 9999
_Name = Annotated[str, msgspec.Meta(min_length=1)]


class EventError(ValueError):
    """An entry of the outbox that is no event this version understands."""


class EventKind(StrEnum):
    """What happened to the wallet."""

    GRANT = "GRANT"
    STATE = "STATE"
    COMMIT = "COMMIT"
    EXPIRE = "EXPIRE"
    REFUND = "REFUND"
    VOID = "VOID"
    ADJUST = "ADJUST"


class LineKind(StrEnum):
    """What one line does; see the table above."""

    GRANT = "GRANT"
    DEBIT = "DEBIT"
    EXPIRE = "EXPIRE"
    REFUND = "REFUND"
    VOID = "VOID"
    ADJUST = "ADJUST"


class Line(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Units of one asset that one grant (or the debt) got or lost."""

    kind: LineKind
    asset: _Name
    units: _Number
    grant_id: str
    """Empty: the wallet's debt."""


class SettledAmount(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """One asset of a committed hold, in units."""

    asset: _Name
    authorized: _Count
    debited: _Count
    uncollected: _Count


class Event(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """One ledger event of one wallet."""

    version: int
    kind: EventKind
    tenant_id: _Name
    wallet_id: _Name
    wallet_sequence: _Number
    time_ms: _Time
    change_number: _Count
    hold_id: str
    lines: list[Line]
    amounts: list[SettledAmount]
    subjects: list[str]
    labels: str
    hold_create_ms: _Time
    late: bool


_decoder: Final = msgspec.msgpack.Decoder(Event)
_encoder: Final = msgspec.msgpack.Encoder()


def encode(event: Event) -> bytes:
    """The value of field ``e``; the scripts write the same bytes' meaning, this one serves tests and tools."""
    return _encoder.encode(event)


def decode(raw: bytes) -> Event:
    """The event in the value of field ``e``.

    Raises:
        EventError: It is no event, or one of another version.
    """
    try:
        event = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        version = _version_of(raw)
        if version is not None and version != VERSION:
            raise EventError(f"event of version {version}; this flusher understands version {VERSION}") from error
        raise EventError(f"not an event: {error}") from error
    if event.version != VERSION:
        raise EventError(f"event of version {event.version}; this flusher understands version {VERSION}")
    if "\0" in event.tenant_id or "\0" in event.wallet_id:
        raise EventError("the wallet's name contains a NUL character, which Postgres cannot look up")
    return event


def _version_of(raw: bytes) -> int | None:
    """The version that the bytes claim, if they are an array that starts with an integer."""
    try:
        values = msgspec.msgpack.decode(raw, type=list[msgspec.Raw])
        return msgspec.msgpack.decode(values[0], type=int) if values else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
