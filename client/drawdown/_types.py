"""What the clients take and give: plain values, no protobuf.

All ``units`` are integers in the asset's smallest unit, all times are aware datetimes in UTC. Values are immutable.
An enum value that is newer than this client reads as ``UNSPECIFIED``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime  # noqa: TC003 - users resolve the annotations of these dataclasses
from enum import StrEnum
from typing import Generic, TypeAlias, TypeVar

Item = TypeVar("Item")


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


class CapWindow(StrEnum):
    """The span of time over which a cap counts."""

    UNSPECIFIED = "UNSPECIFIED"
    PER_REQUEST = "PER_REQUEST"
    MINUTE = "MINUTE"
    HOUR = "HOUR"
    DAY = "DAY"
    WEEK = "WEEK"
    MONTH = "MONTH"
    LIFETIME = "LIFETIME"


@dataclass(frozen=True, slots=True)
class Amount:
    """Units of one asset, for when a plain ``{asset: units}`` does not say enough."""

    asset: str
    units: int
    min_units: int = 0
    """Authorize only: the least that is useful. 0 means all of ``units`` or nothing; otherwise 1 .. ``units``."""


Amounts: TypeAlias = Mapping[str, int] | Iterable[Amount]
"""``{"USD": 500_000}``, or ``Amount`` objects. Always integer units."""


@dataclass(frozen=True, slots=True)
class Asset:
    """A unit of account. Code and scale never change."""

    asset: str
    """Its code, e.g. ``USD``."""
    scale: int
    """Decimal places: one whole is 10^scale units."""
    display_name: str
    default_overage_policy: OveragePolicy
    create_time: datetime | None


@dataclass(frozen=True, slots=True)
class Wallet:
    """One customer's prepaid balance over any number of assets."""

    wallet_id: str
    state: WalletState
    display_name: str
    labels: Mapping[str, str]
    create_time: datetime | None
    update_time: datetime | None


@dataclass(frozen=True, slots=True)
class Grant:
    """Funds put into a wallet."""

    wallet_id: str
    grant_id: str
    asset: str
    units: int
    remaining_units: int
    """Units not yet debited, expired or voided, as the ledger has recorded it."""
    priority: int
    """Burn priority, 0 .. 100, low first."""
    source: GrantSource
    effective_time: datetime | None
    """From when the funds can be used. None: at once."""
    expire_time: datetime | None
    """From when the funds can no longer be used. None: never."""
    labels: Mapping[str, str]
    create_time: datetime | None


@dataclass(frozen=True, slots=True)
class GrantBalance:
    """What is left of one live grant."""

    grant_id: str
    available_units: int
    held_units: int
    priority: int
    source: GrantSource
    effective_time: datetime | None
    expire_time: datetime | None


@dataclass(frozen=True, slots=True)
class Balance:
    """One asset of a wallet. Always available + held = settled + overdraft limit."""

    asset: str
    settled_units: int
    """Granted - debited - expired; negative means debt."""
    held_units: int
    """In open holds."""
    available_units: int
    """What the next Authorize can hold."""
    debt_units: int
    overdraft_limit_units: int
    grants: tuple[GrantBalance, ...] = ()
    """The live grants in burn order; only from ``get_balance(include_grants=True)``."""


@dataclass(frozen=True, slots=True)
class WalletBalance:
    """The answer of ``get_balance``."""

    balances: Mapping[str, Balance]
    """By asset code."""
    wallet_sequence: int
    """The position in the wallet's history that these balances include."""
    state: WalletState
    open_holds: int


@dataclass(frozen=True, slots=True)
class GrantResult:
    """The answer of ``create_grant``."""

    grant: Grant
    balance: Balance
    """Of the grant's asset, after this call."""
    replayed: bool
    """Whether an earlier call with the same id and content had made this grant."""


@dataclass(frozen=True, slots=True)
class HoldAmount:
    """One asset of a hold."""

    asset: str
    authorized_units: int
    held_units: int
    """Still reserved; 0 once the hold is settled."""
    debited_units: int
    uncollected_units: int
    """Used but not charged."""


@dataclass(frozen=True, slots=True)
class Hold:
    """An Authorize's reservation."""

    wallet_id: str
    hold_id: str
    state: HoldState
    amounts: Mapping[str, HoldAmount]
    """By asset code, in the order of the request."""
    create_time: datetime | None
    expire_time: datetime | None
    settle_time: datetime | None
    """When it reached its final state; None while HELD."""
    subjects: tuple[str, ...]
    overage_policy: OveragePolicy
    expiry_action: ExpiryAction
    labels: Mapping[str, str]
    hold_token: bytes = field(repr=False)
    """Proof of what was held; send it with ``commit``. Empty until the server signs holds."""


@dataclass(frozen=True, slots=True)
class CapStatus:
    """The cap that denied a request, as it was at that moment."""

    subject: str
    asset: str
    window: CapWindow
    limit_units: int
    used_units: int
    reset_time: datetime | None


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a request was denied, and what would have been needed."""

    reason: DenialReason
    asset: str
    """The asset that failed; empty when the reason is not about one asset."""
    required_units: int
    available_units: int
    cap: CapStatus | None
    """For CAP_EXCEEDED."""
    retry_time: datetime | None
    """When the same request may succeed, if that is known."""


@dataclass(frozen=True, slots=True)
class Authorization:
    """The answer of ``authorize``. True exactly when approved, so ``if await client.authorize(...)`` is safe."""

    decision: Decision
    hold_id: str
    """The id that was authorized, also when it was generated and also when denied."""
    denial: Denial | None
    """Why not, when denied."""
    hold: Hold | None
    """The hold, when approved."""
    balances: Mapping[str, Balance]
    """Of the requested assets after this call, by asset code; empty when the wallet was not found."""
    replayed: bool
    """Whether an earlier call with the same id and content had decided this."""
    alternative_index: int
    """Which way to pay was taken: 0 is ``amounts``."""

    @property
    def approved(self) -> bool:
        """Whether the units are held. A decision that this client does not know counts as denied."""
        return self.decision is Decision.APPROVED and self.hold is not None

    def __bool__(self) -> bool:
        return self.approved


@dataclass(frozen=True, slots=True)
class CommitResult:
    """The answer of ``commit``."""

    hold: Hold
    debited: Mapping[str, int]
    """Units debited in total under this hold, by asset code."""
    released: Mapping[str, int]
    """Units of the hold given back."""
    uncollected: Mapping[str, int]
    """Units used but not charged."""
    balances: Mapping[str, Balance]
    wallet_sequence: int
    """Position of this debit in the wallet's history."""
    late: bool
    """Whether the hold had expired before."""
    replayed: bool


@dataclass(frozen=True, slots=True)
class ReleaseResult:
    """The answer of ``release``."""

    hold: Hold
    balances: Mapping[str, Balance]
    replayed: bool
    """Whether it had been released, or had expired, before this call."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One immutable line of the ledger: units moved from a debit account to a credit account."""

    wallet_id: str
    wallet_sequence: int
    line: int
    kind: EntryKind
    asset: str
    units: int
    debit_account: str
    credit_account: str
    grant_id: str
    hold_id: str
    subjects: tuple[str, ...]
    occurred_time: datetime | None
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """One page of a list."""

    items: tuple[Item, ...]
    next_page_token: str
    """For the next page; empty on the last one."""
