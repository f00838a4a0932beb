"""The events in the outbox: what the hold scripts write and the flusher records.

One stream entry has one field, ``e``: a msgpack array. The Lua scripts write the same positions, so a change here is
a change of ``VERSION``. Every later version of the flusher understands the earlier ones; an earlier flusher leaves the
partition to a later one (``NewerEventError``). So servers of two versions may run beside each other in any order.

====  ==================  =================================================================================
 pos  field               value
====  ==================  =================================================================================
   1  version             1
   2  kind                see below
   3  tenant_id
   4  wallet_id
   5  wallet_sequence     >= 1, +1 per event of the wallet, gapless
   6  time_ms             when it happened, by Valkey's clock
   7  change_number       the change from Postgres that this event applied; 0 for usage and time
   8  hold_id             "" = none
   9  lines               array of [kind, asset, units, grant_id]; may be empty
  10  amounts             array of [asset, authorized, debited, uncollected], totals so far; of a COMMIT, else empty.
                          A fifth value if a raise counts in other caps than what was held before: array of
                          [[counter, ...], units debited], in order
  11  subjects            array of strings
  12  labels              JSON object of strings; "" = none
  13  hold_create_ms      when the hold was authorized; 0 = no hold
  14  late                true: committed after the hold had expired
  15  final               false: a COMMIT that reports progress; the hold goes on
  16  refund_id           of a REFUND, else ""
  17  cap_usage           array of [counter, units]: by how much the debited units in counters of caps changed
====  ==================  =================================================================================

Positions count from 1, as in Lua. All amounts are units (integers in the asset's smallest unit).

===========  ==========================================================================================================
kind         what happened
===========  ==========================================================================================================
GRANT        a grant was applied; one that is not effective yet has no lines, its GRANT line comes with a later TIME
STATE        the wallet was frozen, unfrozen or closed
VOID         an operator took back what is free of a grant; what holds give back to it later goes the same way
EXPIRY       an operator changed when a grant expires
OVERDRAFT    the overdraft limit of an asset
CAP          a cap was set
CAP_REMOVAL  a cap was removed
COMMIT       usage was debited: one event per progress report of a hold, and one that is final
REFUND       debited units were given back
TIME         what time did: grants became effective or expired, a hold gave units back to a grant that is over
===========  ==========================================================================================================

The kinds from GRANT to CAP_REMOVAL carry a change_number, and only they do.

What a line does to the wallet (``settled = granted - debited - expired``), and its two accounts. ``wallet:<id>`` is
what is left of the grants, ``debt:<id>`` what was debited without one (in credit when more was refunded than owed), so
the wallet's settled funds are what was credited less what was debited over these two accounts:

=======  =================  ============================  =====================  ===================================
kind     balance            grant (or debt, grant_id "")  debit account          credit account
=======  =================  ============================  =====================  ===================================
GRANT    granted + units    row exists with all units     funding:<source>       wallet:<wallet_id>
DEBIT    debited + units    remaining - (debt +)          wallet:<wallet_id> *   revenue
EXPIRE   expired + units    remaining -                   wallet:<wallet_id>     breakage
REFUND   debited - units    remaining + (debt -)          revenue                wallet:<wallet_id> *
VOID     granted - units    remaining -                   wallet:<wallet_id>     funding:<source>
ADJUST   granted + units    remaining + (debt -)          adjustments            wallet:<wallet_id> *
REPAY    as it was          remaining - and debt -        wallet:<wallet_id>     debt:<wallet_id>
=======  =================  ============================  =====================  ===================================

(*) ``debt:<wallet_id>`` for a line without a grant. Only DEBIT, REFUND and ADJUST may be without one.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import msgspec

from drawdown_server.holds.model import UNITS_MAX

VERSION: Final = 1
VERSION_MAX: Final = 1_000
"""What claims to be of a version beyond this is no event of ours: it must not keep a partition waiting."""
FIELD: Final = b"e"
"""Name of the one field of a stream entry."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=UNITS_MAX)]
_Change = Annotated[int, msgspec.Meta(ge=-UNITS_MAX, le=UNITS_MAX)]
_Number = Annotated[int, msgspec.Meta(ge=1, le=UNITS_MAX)]
_Time = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_999)]  # milliseconds, up to the end of the year 9999
_Name = Annotated[str, msgspec.Meta(min_length=1)]


class EventError(ValueError):
    """An entry of the outbox that is no event this version understands."""


class NewerEventError(EventError):
    """An event that is right for all we know, of a version that only a newer flusher understands."""


class EventKind(StrEnum):
    """What happened to the wallet; see the table above."""

    GRANT = "GRANT"
    STATE = "STATE"
    VOID = "VOID"
    EXPIRY = "EXPIRY"
    OVERDRAFT = "OVERDRAFT"
    CAP = "CAP"
    CAP_REMOVAL = "CAP_REMOVAL"
    COMMIT = "COMMIT"
    REFUND = "REFUND"
    TIME = "TIME"


USAGE: Final = frozenset({EventKind.COMMIT, EventKind.REFUND, EventKind.TIME})
"""Kinds that no administrator caused; all others carry the number of a change."""


class LineKind(StrEnum):
    """What one line does; see the table above."""

    GRANT = "GRANT"
    DEBIT = "DEBIT"
    EXPIRE = "EXPIRE"
    REFUND = "REFUND"
    VOID = "VOID"
    ADJUST = "ADJUST"
    REPAY = "REPAY"


class Line(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Units of one asset that one grant (or the debt) got or lost."""

    kind: LineKind
    asset: _Name
    units: _Number
    grant_id: str
    """Empty: the wallet's debt."""


class CountedPart(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Units debited under a hold that count in the same counters of caps, perhaps in none."""

    counters: list[_Name]
    units: _Count


class SettledAmount(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """One asset of a committed hold, in units: totals so far."""

    asset: _Name
    authorized: _Count
    debited: _Count
    uncollected: _Count
    parts: list[CountedPart] = []
    """Only if there are several."""


class CapDelta(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """By how much the debited units in one counter of a cap changed."""

    counter: _Name
    """``subject|asset|WINDOW|period``."""
    units: _Change


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
    final: bool
    refund_id: str
    cap_usage: list[CapDelta]


_decoder: Final = msgspec.msgpack.Decoder(Event)
_encoder: Final = msgspec.msgpack.Encoder()


def encode(event: Event) -> bytes:
    """The value of field ``e``; the scripts write the same bytes' meaning, this one serves tests and tools."""
    return _encoder.encode(event)


def decode(raw: bytes) -> Event:
    """The event in the value of field ``e``.

    Raises:
        NewerEventError: One of a newer version.
        EventError: It is no event.
    """
    try:
        event = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        version = _version_of(raw)
        if version is not None and version != VERSION:
            raise _of_another_version(version) from error
        raise EventError(f"not an event: {error}") from error
    if event.version != VERSION:
        raise _of_another_version(event.version)
    if "\0" in event.tenant_id or "\0" in event.wallet_id:
        raise EventError("the wallet's name contains a NUL character, which Postgres cannot look up")
    return event


def _of_another_version(version: int) -> EventError:
    text = f"event of version {version}; this flusher understands version {VERSION}"
    return NewerEventError(text) if VERSION < version <= VERSION_MAX else EventError(text)


def _version_of(raw: bytes) -> int | None:
    """The version that the bytes claim, if they are an array that starts with an integer."""
    try:
        values = msgspec.msgpack.decode(raw, type=list[msgspec.Raw])
        return msgspec.msgpack.decode(values[0], type=int) if values else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
