"""Plain checks of what callers send: every violation of a request at once, each naming its field and its rule.

Written by hand because a rule engine costs milliseconds per message where this costs microseconds.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Protocol

from drawdown_server.errors import InvalidRequestError, Violation
from drawdown_server.holds.model import TIME_MAX_MS, UNITS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.timestamp_pb2 import Timestamp

    from drawdown.v1 import types_pb2

ID_CHARS_MAX: Final = 128
AMOUNTS_MAX: Final = 16
"""Assets in one request; each is a read and a write in the script."""
ALTERNATIVES_MAX: Final = 8
"""Other ways to pay in one request; in the worst case the script tries them all."""
SUBJECTS_MAX: Final = 16
LABELS_MAX: Final = 16
LABEL_KEY_CHARS_MAX: Final = 64
TEXT_CHARS_MAX: Final = 256
"""Characters of a label value, a display name, a reason: enough for people, too few to store documents."""
TTL_MIN_MS: Final = 1_000
TTL_MAX_MS: Final = 86_400_000
"""24 h: a hold locks money, so nobody may forget one for longer."""
WAIT_MAX_MS: Final = 30_000
"""30 s: whoever waits occupies a call. Postgres being away for longer is nothing that waiting mends."""
SCALE_MAX: Final = 12
"""10^-12: one whole is then 10^12 units, which leaves a balance of 9007 wholes."""
PRIORITY_MAX: Final = 100
PAGE_SIZE_MAX: Final = 1_000
PAGE_SIZE_DEFAULT: Final = 100

_NANOS: Final = 1_000_000_000

_ID = re.compile(rf"[A-Za-z0-9._:@/-]{{1,{ID_CHARS_MAX}}}")
_ASSET = re.compile(r"[A-Z][A-Z0-9_]{0,31}")
_ID_RULE: Final = f"must be 1-{ID_CHARS_MAX} of [A-Za-z0-9._:@/-]"
_ASSET_RULE: Final = "must match [A-Z][A-Z0-9_]{0,31}"
_UNITS_RULE: Final = f"must be {{}} .. {UNITS_MAX} (2^53-1)"


class WalletAndHold(Protocol):
    """Any request that names a hold."""

    wallet_id: str
    hold_id: str


class Checks:
    """Collects the violations of one request."""

    def __init__(self) -> None:
        self._violations: list[Violation] = []

    def fail(self, field: str, rule: str) -> None:
        """Note a violation."""
        self._violations.append(Violation(field, rule))

    def finish(self) -> None:
        """Raise InvalidRequestError with everything noted, if anything was."""
        if self._violations:
            raise InvalidRequestError(self._violations)

    def id(self, field: str, value: str, *, optional: bool = False) -> None:
        """An id given by the caller."""
        if not (optional and value == "") and not _ID.fullmatch(value):
            self.fail(field, _ID_RULE)

    def asset(self, field: str, value: str, *, optional: bool = False) -> None:
        """An asset code."""
        if not (optional and value == "") and not _ASSET.fullmatch(value):
            self.fail(field, _ASSET_RULE)

    def units(self, field: str, value: int, *, least: int) -> None:
        """An amount of at least ``least`` units."""
        if not least <= value <= UNITS_MAX:
            self.fail(field, _UNITS_RULE.format(least))

    def amounts(self, field: str, amounts: Sequence[types_pb2.Amount], *, least: int, partial: bool = False) -> None:
        """1-16 amounts, each asset once; with ``partial`` an amount may say the least that is useful."""
        if not 1 <= len(amounts) <= AMOUNTS_MAX:
            self.fail(field, f"must have 1-{AMOUNTS_MAX} entries")
        seen: set[str] = set()
        for i, amount in enumerate(amounts[: AMOUNTS_MAX + 1]):
            asset, units, min_units = amount.asset, amount.units, amount.min_units
            # Names of fields are made when one is wrong: making them costs more than looking.
            if not _ASSET.fullmatch(asset):
                self.fail(f"{field}[{i}].asset", _ASSET_RULE)
            if not least <= units <= UNITS_MAX:
                self.fail(f"{field}[{i}].units", _UNITS_RULE.format(least))
            if asset in seen:
                self.fail(f"{field}[{i}].asset", "must not appear twice")
            seen.add(asset)
            if min_units and not partial:
                self.fail(f"{field}[{i}].min_units", "must be 0: it belongs to Authorize")
            elif min_units and not 0 <= min_units <= max(units, 0):
                self.fail(f"{field}[{i}].min_units", "must be 0 .. units")

    def unique_ids(self, field: str, values: Sequence[str], *, most: int) -> None:
        """At most ``most`` ids, each once."""
        if not values:
            return
        if len(values) > most:
            self.fail(field, f"must have at most {most} entries")
        for i, value in enumerate(values[:most]):
            self.id(f"{field}[{i}]", value)
            if value in values[:i]:
                self.fail(f"{field}[{i}]", "must not appear twice")

    def cap_subject(self, field: str, value: str) -> None:
        """Whom a cap is for: the whole wallet (empty), an exact subject, or a prefix followed by ``*``."""
        exact = value.removesuffix("*")
        if len(value) > ID_CHARS_MAX or (exact and not _ID.fullmatch(exact)):
            self.fail(field, f"{_ID_RULE}, the last of them may be *")

    def text(self, field: str, value: str, *, least: int = 0, most: int = TEXT_CHARS_MAX) -> None:
        """Text for people: it lands in logs, consoles and spreadsheets."""
        if len(value) > most:
            self.fail(field, f"must have at most {most} characters")
        elif len(value) < least:
            self.fail(field, "is required")
        elif not value.isprintable():
            self.fail(field, "must have printable characters only")

    def labels(self, field: str, labels: Mapping[str, str]) -> None:
        """Labels."""
        if not labels:
            return
        if len(labels) > LABELS_MAX:
            self.fail(field, f"must have at most {LABELS_MAX} entries")
            return
        for key, value in labels.items():
            if not key:
                self.fail(field, "must not have an empty key")
            if len(key) <= LABEL_KEY_CHARS_MAX and key.isprintable():
                self.text(f"{field}[{key}]", value)
            else:  # the key itself is not repeated: it is what may be hostile
                self.fail(field, f"must have keys of 1-{LABEL_KEY_CHARS_MAX} printable characters")

    def ttl(self, field: str, ttl: Duration) -> int:
        """A ttl in milliseconds."""
        ttl_ms = ttl.seconds * 1000 + ttl.nanos // 1_000_000
        if not TTL_MIN_MS <= ttl_ms <= TTL_MAX_MS:
            self.fail(field, "must be 1 s .. 24 h")
        return ttl_ms

    def wait(self, field: str, wait: Duration) -> None:
        """How long to wait for something."""
        if not 0 < wait.seconds * _NANOS + wait.nanos <= WAIT_MAX_MS * 1_000_000:
            self.fail(field, "must be more than 0 s and at most 30 s")

    def time(self, field: str, time: Timestamp) -> int:
        """A time in milliseconds since the Unix epoch."""
        time_ms = time.seconds * 1000 + time.nanos // 1_000_000
        if not 0 < time_ms <= TIME_MAX_MS or not 0 <= time.nanos < _NANOS:
            self.fail(field, "must be after 1970 and before the year 10000")
            return 0
        return time_ms

    def enum(self, field: str, value: int, known: Iterable[int], *, required: bool = False) -> None:
        """A value of an enum; 0 is UNSPECIFIED."""
        if value not in known:
            self.fail(field, "must be a known value")
        elif required and value == 0:
            self.fail(field, "is required")

    def page_size(self, field: str, value: int) -> int:
        """The page size to use: 0 means the default, more than the largest the largest."""
        if value < 0:
            self.fail(field, f"must be 0 .. {PAGE_SIZE_MAX}")
        return min(value, PAGE_SIZE_MAX) or PAGE_SIZE_DEFAULT


def check_hold_name(request: WalletAndHold) -> Checks:
    """Start the checks of a request that names a hold."""
    checks = Checks()
    checks.id("wallet_id", request.wallet_id)
    checks.id("hold_id", request.hold_id)
    return checks
