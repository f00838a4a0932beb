"""Domain to proto. Times are milliseconds on the one side, Timestamps on the other; 0 is an unset Timestamp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from google.protobuf.timestamp_pb2 import Timestamp

from drawdown.v1 import types_pb2
from drawdown_server.holds.labels import labels_of
from drawdown_server.holds.model import (
    AssetBalance,
    Cap,
    CapMode,
    CapStatus,
    CapWindow,
    ExpiryAction,
    GrantBalance,
    GrantSource,
    Hold,
    HoldState,
    OveragePolicy,
    WalletState,
)
from drawdown_server.holds.recorded import FORGOTTEN

if TYPE_CHECKING:
    from collections.abc import Iterable

# Names of the proto's enum values; protobuf takes names wherever it takes numbers.
WALLET_STATES: Final = {state: f"WALLET_STATE_{state}" for state in WalletState}
HOLD_STATES: Final = {state: f"HOLD_STATE_{state}" for state in HoldState}
GRANT_SOURCES: Final = {source: f"GRANT_SOURCE_{source}" for source in GrantSource}
OVERAGE_POLICIES: Final = {policy: f"OVERAGE_POLICY_{policy}" for policy in OveragePolicy}
EXPIRY_ACTIONS: Final = {action: f"EXPIRY_ACTION_{action}" for action in ExpiryAction}
CAP_WINDOWS: Final = {window: f"CAP_WINDOW_{window}" for window in CapWindow}
CAP_MODES: Final = {mode: f"CAP_MODE_{mode}" for mode in CapMode}

# And back, by number. What UNSPECIFIED means is decided here only where it always means the same.
SOURCES_BY_NUMBER: Final = {types_pb2.GrantSource.Value(name): source for source, name in GRANT_SOURCES.items()}
OVERAGE_POLICIES_BY_NUMBER: Final = {
    types_pb2.OveragePolicy.Value(name): policy for policy, name in OVERAGE_POLICIES.items()
}
EXPIRY_ACTIONS_BY_NUMBER: Final = {types_pb2.EXPIRY_ACTION_UNSPECIFIED: ExpiryAction.RELEASE} | {
    types_pb2.ExpiryAction.Value(name): action for action, name in EXPIRY_ACTIONS.items()
}
CAP_WINDOWS_BY_NUMBER: Final = {types_pb2.CapWindow.Value(name): window for window, name in CAP_WINDOWS.items()}
CAP_MODES_BY_NUMBER: Final = {types_pb2.CAP_MODE_UNSPECIFIED: CapMode.ENFORCE} | {
    types_pb2.CapMode.Value(name): mode for mode, name in CAP_MODES.items()
}


NAMELESS: Final = frozenset({"", FORGOTTEN})
"""Fingerprints of holds whose Authorize nobody remembers: a tombstone, one of the ledger, one recalled for a refund."""


def timestamp(time_ms: int) -> Timestamp | None:
    """A Timestamp, or None (unset) for 0."""
    if time_ms == 0:
        return None
    return Timestamp(seconds=time_ms // 1000, nanos=time_ms % 1000 * 1_000_000)


def milliseconds(time: Timestamp) -> int:
    """Milliseconds of a Timestamp; what is finer is cut off. 0 for an unset one."""
    return time.seconds * 1000 + time.nanos // 1_000_000


def balance(source: AssetBalance) -> types_pb2.Balance:
    """A Balance."""
    return types_pb2.Balance(
        asset=source.asset,
        settled_units=source.settled,
        held_units=source.held,
        available_units=source.available,
        debt_units=max(0, source.debt),  # refunded debt may be a credit: it is in the other numbers
        overdraft_limit_units=source.overdraft_limit,
        grants=[grant_balance(grant) for grant in source.grants],
        scheduled_grants=[grant_balance(grant) for grant in source.scheduled],
    )


def grant_balance(source: GrantBalance) -> types_pb2.GrantBalance:
    """A GrantBalance."""
    return types_pb2.GrantBalance(
        grant_id=source.grant_id,
        available_units=source.free,
        held_units=source.pinned,
        priority=source.priority,
        source=GRANT_SOURCES[source.source],
        effective_time=timestamp(source.effective_ms),
        expire_time=timestamp(source.expire_ms),
    )


def balances(sources: Iterable[AssetBalance]) -> list[types_pb2.Balance]:
    """Balances."""
    return [balance(source) for source in sources]


def hold(wallet_id: str, source: Hold, hold_token: bytes = b"") -> types_pb2.Hold:
    """A Hold. What its Authorize said is unset when nobody remembers it."""
    is_forgotten = source.fingerprint in NAMELESS
    policies = set() if is_forgotten else {amount.overage_policy for amount in source.amounts}
    return types_pb2.Hold(
        wallet_id=wallet_id,
        hold_id=source.hold_id,
        state=HOLD_STATES[source.state],
        amounts=[
            types_pb2.HoldAmount(
                asset=amount.asset,
                authorized_units=amount.authorized,
                held_units=amount.held,
                debited_units=amount.debited,
                uncollected_units=amount.uncollected,
                refunded_units=amount.refunded,
                overage_policy=None if is_forgotten else OVERAGE_POLICIES[amount.overage_policy],
            )
            for amount in source.amounts
        ],
        create_time=timestamp(source.create_ms),
        expire_time=timestamp(source.expire_ms),
        settle_time=timestamp(source.settle_ms),
        subjects=source.subjects,
        overage_policy=OVERAGE_POLICIES[policies.pop()] if len(policies) == 1 else None,
        expiry_action=None if is_forgotten else EXPIRY_ACTIONS[source.expiry_action],
        labels=labels_of(source.labels),
        hold_token=hold_token,
        wallet_sequence=source.wallet_sequence,
        alternative_index=source.way,
    )


def cap(wallet_id: str, source: Cap) -> types_pb2.Cap:
    """A Cap."""
    return types_pb2.Cap(
        wallet_id=wallet_id,
        subject=source.subject,
        asset=source.asset,
        window=CAP_WINDOWS[source.window],
        limit_units=source.limit,
        mode=CAP_MODES[source.mode],
    )


def cap_status(source: CapStatus) -> types_pb2.CapStatus:
    """A CapStatus."""
    return types_pb2.CapStatus(
        subject=source.subject,
        asset=source.asset,
        window=CAP_WINDOWS[source.window],
        limit_units=source.limit,
        used_units=source.used,
        reset_time=timestamp(source.reset_ms),
        cap_subject=source.cap,
        mode=CAP_MODES[source.mode],
    )
