"""The nouns of the hot core, as the hold scripts answer them (``messages.py`` has the requests and replies).

All amounts are integers in the asset's smallest unit, within +-``UNITS_MAX``. All times are milliseconds since the
Unix epoch by the store's own clock (Redis TIME); 0 means never or not yet.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

UNITS_MAX: Final = 2**53 - 1
"""Largest amount or balance. Lua numbers are doubles: the integers beyond are not exact there."""
TIME_MAX_MS: Final = 253_402_300_799_999
"""The last millisecond of the year 9999, the end of protobuf's and Postgres' common calendar."""


class WalletState(StrEnum):
    """The state of a wallet."""

    ACTIVE = "ACTIVE"
    FROZEN = "FROZEN"
    CLOSED = "CLOSED"


class HoldState(StrEnum):
    """The state of a hold. COMMITTED and RELEASED are final; EXPIRED can still be committed late, or released."""

    HELD = "HELD"
    COMMITTED = "COMMITTED"
    RELEASED = "RELEASED"
    EXPIRED = "EXPIRED"


class OveragePolicy(StrEnum):
    """What Commit does with more than was held."""

    REJECT = "REJECT"
    CHARGE_AVAILABLE = "CHARGE_AVAILABLE"
    CHARGE_FULL = "CHARGE_FULL"


class ExpiryAction(StrEnum):
    """What happens to a hold that nobody settled in time."""

    RELEASE = "RELEASE"
    COMMIT_FULL = "COMMIT_FULL"


class GrantSource(StrEnum):
    """Where the funds of a grant came from."""

    PURCHASE = "PURCHASE"
    PROMOTION = "PROMOTION"
    TOP_UP = "TOP_UP"
    REFUND = "REFUND"
    ADJUSTMENT = "ADJUSTMENT"


class CapWindow(StrEnum):
    """The span of time over which a cap counts; UTC."""

    PER_REQUEST = "PER_REQUEST"
    MINUTE = "MINUTE"
    HOUR = "HOUR"
    DAY = "DAY"
    WEEK = "WEEK"
    """From Monday."""
    MONTH = "MONTH"
    LIFETIME = "LIFETIME"


class CapMode(StrEnum):
    """Whether a cap denies or only reports."""

    ENFORCE = "ENFORCE"
    OBSERVE = "OBSERVE"


class Cap(msgspec.Struct, frozen=True):
    """A hard limit on spend."""

    subject: str
    """"" for the whole wallet, an exact subject, or a ``prefix*`` default for subjects without a cap of their own."""
    asset: str
    window: CapWindow
    limit: int
    mode: CapMode


class CapStatus(msgspec.Struct, frozen=True):
    """A cap as it stands for one subject."""

    cap: str
    """The subject of the cap itself, e.g. ``key:*``."""
    subject: str
    """The subject it counts for, e.g. ``key:sk_1``; "" for the whole wallet."""
    asset: str
    window: CapWindow
    limit: int
    used: int
    """Units held and debited in the current window."""
    mode: CapMode
    reset_ms: int
    """When the window ends; 0 for PER_REQUEST and LIFETIME."""


class DenialReason(StrEnum):
    """Why Authorize said no."""

    WALLET_NOT_FOUND = "WALLET_NOT_FOUND"
    WALLET_FROZEN = "WALLET_FROZEN"
    WALLET_CLOSED = "WALLET_CLOSED"
    TOO_MANY_HOLDS = "TOO_MANY_HOLDS"
    ASSET_NOT_FOUND = "ASSET_NOT_FOUND"
    INSUFFICIENT_FUNDS = "INSUFFICIENT_FUNDS"
    CAP_EXCEEDED = "CAP_EXCEEDED"
    HOLD_RELEASED = "HOLD_RELEASED"


class GrantBalance(msgspec.Struct, frozen=True):
    """What is left of one live grant."""

    grant_id: str
    free: int
    """Units that the next Authorize can use."""
    pinned: int
    """Units pinned by open holds."""
    priority: int
    source: GrantSource
    effective_ms: int
    expire_ms: int
    create_ms: int


class AssetBalance(msgspec.Struct, frozen=True):
    """The balance of one asset of a wallet: available + held = settled + overdraft_limit."""

    asset: str
    settled: int
    held: int
    available: int
    debt: int
    overdraft_limit: int
    grants: list[GrantBalance] = []
    """Live grants in burn order; empty unless asked for."""
    scheduled: list[GrantBalance] = []
    """Grants that are not effective yet, soonest first; empty unless asked for. They are no money yet."""


class HoldAmount(msgspec.Struct, frozen=True):
    """One asset of a hold."""

    asset: str
    authorized: int
    """Units reserved in total, raises included."""
    held: int
    debited: int
    uncollected: int
    refunded: int
    overage_policy: OveragePolicy


class Hold(msgspec.Struct, frozen=True):
    """A hold as a script answers it."""

    hold_id: str
    state: HoldState
    fingerprint: str
    """Digests of the fields of the Authorize that made it; empty for a Release that came first."""
    amounts: list[HoldAmount]
    create_ms: int
    expire_ms: int
    settle_ms: int
    subjects: list[str]
    expiry_action: ExpiryAction
    labels: str
    """JSON object of strings; empty for none."""
    late: bool
    wallet_sequence: int
    """Its last ledger event; 0 while there is none."""
    way: int
    """Which way to pay was taken: 0 is the first."""


class WalletReading(msgspec.Struct, frozen=True):
    """A wallet as the store has it at one instant."""

    state: WalletState
    sequence: int
    """Number of the wallet's last ledger event."""
    change_number: int
    """Number of the last change from Postgres that was applied."""
    open_holds: int
    balances: list[AssetBalance]


class WalletHead(msgspec.Struct, array_like=True, frozen=True):
    """The field ``head`` of a wallet's hash, as ``verbs.lua`` packs it."""

    state: WalletState
    sequence: int
    change_number: int
    due_ms: int
    loaded_ms: int
    has_caps: bool
    appended_ms: int
    """When its last event was appended; 0 = none since it was loaded."""
    format: int
    """Of everything that is kept of the wallet. Scripts of another format refuse it."""

    @property
    def changed_ms(self) -> int:
        """When something last happened to it. Holds that came and went without an event keep it here by themselves."""
        return max(self.loaded_ms, self.appended_ms)


class Ticket(msgspec.Struct, frozen=True):
    """Where the store was before something was read from Postgres for it."""

    epoch: int
    """Of the wallet's partition."""
    time_ms: int
    """By the store's clock."""
    is_live: bool
    """The wallet was there at that time or a moment later: nothing is to be loaded."""
