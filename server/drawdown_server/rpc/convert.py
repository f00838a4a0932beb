"""Domain to proto. Times are milliseconds on the one side, Timestamps on the other; 0 is an unset Timestamp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp

from drawdown.v1 import types_pb2
from drawdown_server.holds.model import (
    AssetBalance,
    ExpiryAction,
    GrantSource,
    Hold,
    HoldState,
    OveragePolicy,
    WalletState,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Names of the proto's enum values; protobuf takes names wherever it takes numbers.
WALLET_STATES: Final = {state: f"WALLET_STATE_{state}" for state in WalletState}
HOLD_STATES: Final = {state: f"HOLD_STATE_{state}" for state in HoldState}
GRANT_SOURCES: Final = {source: f"GRANT_SOURCE_{source}" for source in GrantSource}
OVERAGE_POLICIES: Final = {policy: f"OVERAGE_POLICY_{policy}" for policy in OveragePolicy}
EXPIRY_ACTIONS: Final = {action: f"EXPIRY_ACTION_{action}" for action in ExpiryAction}
SOURCES_BY_NUMBER: Final = {types_pb2.GrantSource.Value(name): source for source, name in GRANT_SOURCES.items()}


def timestamp(time_ms: int) -> Timestamp | None:
    """A Timestamp, or None (unset) for 0."""
    if time_ms == 0:
        return None
    return Timestamp(seconds=time_ms // 1000, nanos=time_ms % 1000 * 1_000_000)


def labels_json(labels: Mapping[str, str]) -> str:
    """Labels as the scripts and the outbox carry them: a JSON object with sorted keys, or nothing."""
    if not labels:
        return ""
    return msgspec.json.encode(dict(sorted(labels.items()))).decode()


def labels_of(text: str) -> dict[str, str]:
    """The labels in such a JSON text."""
    return msgspec.json.decode(text, type=dict[str, str]) if text else {}


def balance(source: AssetBalance) -> types_pb2.Balance:
    """A Balance."""
    return types_pb2.Balance(
        asset=source.asset,
        settled_units=source.settled,
        held_units=source.held,
        available_units=source.available,
        debt_units=source.debt,
        overdraft_limit_units=source.overdraft_limit,
        grants=[
            types_pb2.GrantBalance(
                grant_id=grant.grant_id,
                available_units=grant.free,
                held_units=grant.pinned,
                priority=grant.priority,
                source=GRANT_SOURCES[grant.source],
                effective_time=timestamp(grant.effective_ms),
                expire_time=timestamp(grant.expire_ms),
            )
            for grant in source.grants
        ],
    )


def balances(sources: Iterable[AssetBalance]) -> list[types_pb2.Balance]:
    """Balances."""
    return [balance(source) for source in sources]


def hold(wallet_id: str, source: Hold) -> types_pb2.Hold:
    """A Hold."""
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
            )
            for amount in source.amounts
        ],
        create_time=timestamp(source.create_ms),
        expire_time=timestamp(source.expire_ms),
        settle_time=timestamp(source.settle_ms),
        subjects=source.subjects,
        overage_policy=OVERAGE_POLICIES[source.overage_policy],
        expiry_action=EXPIRY_ACTIONS[source.expiry_action],
        labels=labels_of(source.labels),
    )
