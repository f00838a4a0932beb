"""The words that the API has for states, reasons and choices.

An enum value that is newer than this client reads as ``UNSPECIFIED``.
"""

from __future__ import annotations

from enum import StrEnum


class Decision(StrEnum):
    """Whether a request may run."""

    UNSPECIFIED = "UNSPECIFIED"
    APPROVED = "APPROVED"
    DENIED = "DENIED"


class DenialReason(StrEnum):
    """Why a request was denied."""

    UNSPECIFIED = "UNSPECIFIED"
    WALLET_NOT_FOUND = "WALLET_NOT_FOUND"
    WALLET_FROZEN = "WALLET_FROZEN"
    WALLET_CLOSED = "WALLET_CLOSED"
    TOO_MANY_HOLDS = "TOO_MANY_HOLDS"
    ASSET_NOT_FOUND = "ASSET_NOT_FOUND"
    INSUFFICIENT_FUNDS = "INSUFFICIENT_FUNDS"
    CAP_EXCEEDED = "CAP_EXCEEDED"
    HOLD_RELEASED = "HOLD_RELEASED"


class WalletState(StrEnum):
    """The state of a wallet; FROZEN and CLOSED take no new holds."""

    UNSPECIFIED = "UNSPECIFIED"
    ACTIVE = "ACTIVE"
    FROZEN = "FROZEN"
    CLOSED = "CLOSED"


class GrantSource(StrEnum):
    """Where the funds of a grant came from."""

    UNSPECIFIED = "UNSPECIFIED"
    PURCHASE = "PURCHASE"
    PROMOTION = "PROMOTION"
    TOP_UP = "TOP_UP"
    REFUND = "REFUND"
    ADJUSTMENT = "ADJUSTMENT"


class HoldState(StrEnum):
    """The state of a hold; HELD is the only one that is not final."""

    UNSPECIFIED = "UNSPECIFIED"
    HELD = "HELD"
    COMMITTED = "COMMITTED"
    RELEASED = "RELEASED"
    EXPIRED = "EXPIRED"


class OveragePolicy(StrEnum):
    """What Commit does with more than was held; UNSPECIFIED means the asset's default."""

    UNSPECIFIED = "UNSPECIFIED"
    REJECT = "REJECT"
    CHARGE_AVAILABLE = "CHARGE_AVAILABLE"
    CHARGE_FULL = "CHARGE_FULL"


class ExpiryAction(StrEnum):
    """What happens to a hold that nobody settled in time; UNSPECIFIED means RELEASE."""

    UNSPECIFIED = "UNSPECIFIED"
    RELEASE = "RELEASE"
    COMMIT_FULL = "COMMIT_FULL"


class EntryKind(StrEnum):
    """What moved the units of a ledger entry."""

    UNSPECIFIED = "UNSPECIFIED"
    GRANT = "GRANT"
    DEBIT = "DEBIT"
    EXPIRE = "EXPIRE"
    REFUND = "REFUND"
    VOID = "VOID"
    ADJUST = "ADJUST"
    REPAY = "REPAY"


class AuditOutcome(StrEnum):
    """What came of an administrator's call."""

    UNSPECIFIED = "UNSPECIFIED"
    DONE = "DONE"
    INTENDED = "INTENDED"
    """Recorded before it was done in Valkey, where no transaction of the ledger reaches."""
    DENIED = "DENIED"
    """The credential did not have the scope."""


class CapWindow(StrEnum):
    """The span of time over which a cap counts, in UTC; weeks begin on Monday."""

    UNSPECIFIED = "UNSPECIFIED"
    PER_REQUEST = "PER_REQUEST"
    MINUTE = "MINUTE"
    HOUR = "HOUR"
    DAY = "DAY"
    WEEK = "WEEK"
    MONTH = "MONTH"
    LIFETIME = "LIFETIME"


class CapMode(StrEnum):
    """Whether a cap denies or only reports; UNSPECIFIED means ENFORCE."""

    UNSPECIFIED = "UNSPECIFIED"
    ENFORCE = "ENFORCE"
    OBSERVE = "OBSERVE"


class Scope(StrEnum):
    """What a credential may do; no scope contains another."""

    UNSPECIFIED = "UNSPECIFIED"
    AUTHORIZE = "AUTHORIZE"
    READ = "READ"
    WALLETS = "WALLETS"
    FUNDS = "FUNDS"
    ADMIN = "ADMIN"
