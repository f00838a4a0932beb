"""What the clients take and give: plain values, no protobuf.

All ``units`` are integers in the asset's smallest unit, all times are aware datetimes in UTC. Values are immutable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime  # noqa: TC003 - users resolve the annotations of these dataclasses
from typing import Generic, TypeAlias, TypeVar

from drawdown._enums import (
    CapMode,
    CapWindow,
    Decision,
    DenialReason,
    EntryKind,
    ExpiryAction,
    GrantSource,
    HoldState,
    OveragePolicy,
    WalletState,
)

Item = TypeVar("Item")


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
    void_time: datetime | None = None
    """When an operator took back what was left. None: never."""


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
    """Owed; repaid first by the next grant."""
    overdraft_limit_units: int
    """How far below zero the balance may go."""
    grants: tuple[GrantBalance, ...] = ()
    """The live grants in burn order; only from ``get_balance(include_grants=True)``."""
    scheduled_grants: tuple[GrantBalance, ...] = ()
    """Grants that are not effective yet, soonest first; they are no money yet. Only when asked for."""


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
class GrantUpdate:
    """The answer of ``void_grant`` and ``set_grant_expiry``."""

    grant: Grant
    balance: Balance
    """Of the grant's asset, after this call."""


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
    refunded_units: int
    """Debited and given back by ``refund``."""
    overage_policy: OveragePolicy
    """What Commit does with more than was held of this asset."""


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
    """Of all its amounts; UNSPECIFIED when they have different ones."""
    expiry_action: ExpiryAction
    labels: Mapping[str, str]
    hold_token: bytes = field(repr=False)
    """Proof of what was held, from ``authorize`` and ``extend``; send it with ``commit``. Empty in other answers, and
    when the server has no key to sign with."""
    wallet_sequence: int = 0
    """Position in the wallet's history of the last event under this hold; 0 while nothing was debited."""
    alternative_index: int = 0
    """Which way to pay was taken: 0 is ``amounts`` of the request, 1 the first alternative."""


@dataclass(frozen=True, slots=True)
class Cap:
    """A hard limit on spend: what is held and debited in one window, for one subject and asset."""

    wallet_id: str
    subject: str
    """"" for the whole wallet, an exact subject, or a default such as ``key:*``."""
    asset: str
    window: CapWindow
    limit_units: int
    mode: CapMode


@dataclass(frozen=True, slots=True)
class CapStatus:
    """A cap as it stands for one subject."""

    subject: str
    """Whom it counts for: "" for the whole wallet, or an exact subject, also when a ``prefix*`` cap applies."""
    asset: str
    window: CapWindow
    limit_units: int
    used_units: int
    """Held and debited in the current window."""
    reset_time: datetime | None
    """When the window ends; None for PER_REQUEST and LIFETIME."""
    cap_subject: str
    """The subject of the cap itself, e.g. ``key:*``."""
    mode: CapMode


@dataclass(frozen=True, slots=True)
class WalletCaps:
    """The answer of ``list_caps``."""

    caps: tuple[Cap, ...]
    """By subject, asset and window."""
    usage: tuple[CapStatus, ...]
    """How they stand in the current window, per subject."""


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
    observed_caps: tuple[CapStatus, ...] = ()
    """Caps in OBSERVE mode that would have denied it."""

    @property
    def approved(self) -> bool:
        """Whether the units are held. A decision that this client does not know counts as denied."""
        return self.decision is Decision.APPROVED and self.hold is not None

    def __bool__(self) -> bool:
        return self.approved


@dataclass(frozen=True, slots=True)
class Extension:
    """The answer of ``extend``. True exactly when approved; a denied raise leaves the hold as it was."""

    decision: Decision
    denial: Denial | None
    hold: Hold
    """After this call."""
    balances: Mapping[str, Balance]
    observed_caps: tuple[CapStatus, ...] = ()

    @property
    def approved(self) -> bool:
        """Whether the hold is as was asked for. A decision that this client does not know counts as denied."""
        return self.decision is Decision.APPROVED

    def __bool__(self) -> bool:
        return self.approved


@dataclass(frozen=True, slots=True)
class ChargeResult:
    """The answer of ``charge``. True exactly when it was charged."""

    decision: Decision
    charge_id: str
    """The id that was charged, also when it was generated and also when denied."""
    denial: Denial | None
    hold: Hold | None
    """The charge as a committed hold, when approved."""
    debited: Mapping[str, int]
    uncollected: Mapping[str, int]
    """Units used but not charged."""
    balances: Mapping[str, Balance]
    wallet_sequence: int
    replayed: bool
    observed_caps: tuple[CapStatus, ...] = ()
    in_ledger: bool = False
    """Whether the ledger has recorded it; False when nobody waited for that (``wait_for_ledger_s``), or in vain."""

    @property
    def approved(self) -> bool:
        """Whether it was charged. A decision that this client does not know counts as denied."""
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
    """Units of the hold given back; empty for a progress report."""
    uncollected: Mapping[str, int]
    """Units used but not charged."""
    balances: Mapping[str, Balance]
    wallet_sequence: int
    """Position of this debit in the wallet's history."""
    late: bool
    """Whether the hold had expired before."""
    replayed: bool
    in_ledger: bool = False
    """Whether the ledger has recorded it; False when nobody waited for that (``wait_for_ledger_s``), or in vain."""


@dataclass(frozen=True, slots=True)
class ReleaseResult:
    """The answer of ``release`` and ``force_release``."""

    hold: Hold
    balances: Mapping[str, Balance]
    replayed: bool
    """Whether it had been released, or had expired, before this call."""


@dataclass(frozen=True, slots=True)
class RefundResult:
    """The answer of ``refund``."""

    hold: Hold
    balances: Mapping[str, Balance]
    wallet_sequence: int
    """Position of this refund in the wallet's history."""
    replayed: bool
    """Whether an earlier call with the same id and amounts had refunded it."""
    in_ledger: bool = False
    """Whether the ledger has recorded it; False when nobody waited for that (``wait_for_ledger_s``), or in vain."""


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
