"""Domain to proto. Times are milliseconds on the one side, Timestamps on the other; 0 is an unset Timestamp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

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

    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

# Names of the proto's enum values; protobuf takes names wherever it takes numbers.
WALLET_STATES: Final = {state: f"WALLET_STATE_{state}" for state in WalletState}
GRANT_SOURCES: Final = {source: f"GRANT_SOURCE_{source}" for source in GrantSource}
CAP_WINDOWS: Final = {window: f"CAP_WINDOW_{window}" for window in CapWindow}
CAP_MODES: Final = {mode: f"CAP_MODE_{mode}" for mode in CapMode}

# Those of a hold by number: attributes of a message take nothing else.
HOLD_STATES: Final = {
    state: cast("types_pb2.HoldState", types_pb2.HoldState.Value(f"HOLD_STATE_{state}")) for state in HoldState
}
OVERAGE_POLICIES: Final = {
    policy: cast("types_pb2.OveragePolicy", types_pb2.OveragePolicy.Value(f"OVERAGE_POLICY_{policy}"))
    for policy in OveragePolicy
}
EXPIRY_ACTIONS: Final = {
    action: cast("types_pb2.ExpiryAction", types_pb2.ExpiryAction.Value(f"EXPIRY_ACTION_{action}"))
    for action in ExpiryAction
}

# And back, by number. What UNSPECIFIED means is decided here only where it always means the same.
SOURCES_BY_NUMBER: Final = {types_pb2.GrantSource.Value(name): source for source, name in GRANT_SOURCES.items()}
OVERAGE_POLICIES_BY_NUMBER: Final[dict[int, OveragePolicy]] = {
    number: policy for policy, number in OVERAGE_POLICIES.items()
}
EXPIRY_ACTIONS_BY_NUMBER: Final[dict[int, ExpiryAction]] = {
    types_pb2.EXPIRY_ACTION_UNSPECIFIED: ExpiryAction.RELEASE,
    **{number: action for action, number in EXPIRY_ACTIONS.items()},
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
    made = types_pb2.Balance()
    _write_balance(made, source)
    return made


def _write_balance(target: types_pb2.Balance, source: AssetBalance) -> None:
    target.asset = source.asset
    target.settled_units = source.settled
    target.held_units = source.held
    target.available_units = source.available
    if source.debt > 0:  # refunded debt may be a credit: it is in the other numbers
        target.debt_units = source.debt
    if source.overdraft_limit:
        target.overdraft_limit_units = source.overdraft_limit
    if source.grants:
        target.grants.extend(map(grant_balance, source.grants))
    if source.scheduled:
        target.scheduled_grants.extend(map(grant_balance, source.scheduled))


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


def write_balances(target: RepeatedCompositeFieldContainer[types_pb2.Balance], sources: Iterable[AssetBalance]) -> None:
    """Write Balances into an answer, as ``write_hold`` does."""
    for source in sources:
        _write_balance(target.add(), source)


def hold(wallet_id: str, source: Hold, hold_token: bytes = b"") -> types_pb2.Hold:
    """A Hold."""
    made = types_pb2.Hold()
    write_hold(made, wallet_id, source, hold_token)
    return made


def write_hold(target: types_pb2.Hold, wallet_id: str, source: Hold, hold_token: bytes = b"") -> None:
    """Write a Hold into an answer: one that is made first and set then is copied, and takes three times as long.

    What its Authorize said is unset when nobody remembers it. What is empty is not touched.
    """
    target.wallet_id = wallet_id
    target.hold_id = source.hold_id
    target.state = HOLD_STATES[source.state]
    target.hold_token = hold_token
    target.wallet_sequence = source.wallet_sequence
    target.alternative_index = source.way
    is_forgotten = source.fingerprint in NAMELESS
    for amount in source.amounts:
        target.amounts.add(
            asset=amount.asset,
            authorized_units=amount.authorized,
            held_units=amount.held,
            debited_units=amount.debited,
            uncollected_units=amount.uncollected,
            refunded_units=amount.refunded,
            overage_policy=None if is_forgotten else OVERAGE_POLICIES[amount.overage_policy],
        )
    if source.create_ms:
        _write_timestamp(target.create_time, source.create_ms)
    if source.expire_ms:
        _write_timestamp(target.expire_time, source.expire_ms)
    if source.settle_ms:
        _write_timestamp(target.settle_time, source.settle_ms)
    if source.subjects:
        target.subjects.extend(source.subjects)
    if source.labels:
        target.labels.update(labels_of(source.labels))
    if not is_forgotten:
        target.expiry_action = EXPIRY_ACTIONS[source.expiry_action]
        policies = {amount.overage_policy for amount in source.amounts}
        if len(policies) == 1:
            target.overage_policy = OVERAGE_POLICIES[policies.pop()]


def _write_timestamp(target: Timestamp, time_ms: int) -> None:
    target.seconds = time_ms // 1000
    target.nanos = time_ms % 1000 * 1_000_000


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
