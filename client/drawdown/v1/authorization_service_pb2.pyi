from drawdown.v1 import types_pb2 as _types_pb2
from google.protobuf import any_pb2 as _any_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Decision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECISION_UNSPECIFIED: _ClassVar[Decision]
    DECISION_APPROVED: _ClassVar[Decision]
    DECISION_DENIED: _ClassVar[Decision]

class DenialReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DENIAL_REASON_UNSPECIFIED: _ClassVar[DenialReason]
    DENIAL_REASON_WALLET_NOT_FOUND: _ClassVar[DenialReason]
    DENIAL_REASON_WALLET_FROZEN: _ClassVar[DenialReason]
    DENIAL_REASON_WALLET_CLOSED: _ClassVar[DenialReason]
    DENIAL_REASON_TOO_MANY_HOLDS: _ClassVar[DenialReason]
    DENIAL_REASON_ASSET_NOT_FOUND: _ClassVar[DenialReason]
    DENIAL_REASON_INSUFFICIENT_FUNDS: _ClassVar[DenialReason]
    DENIAL_REASON_CAP_EXCEEDED: _ClassVar[DenialReason]
    DENIAL_REASON_HOLD_RELEASED: _ClassVar[DenialReason]
DECISION_UNSPECIFIED: Decision
DECISION_APPROVED: Decision
DECISION_DENIED: Decision
DENIAL_REASON_UNSPECIFIED: DenialReason
DENIAL_REASON_WALLET_NOT_FOUND: DenialReason
DENIAL_REASON_WALLET_FROZEN: DenialReason
DENIAL_REASON_WALLET_CLOSED: DenialReason
DENIAL_REASON_TOO_MANY_HOLDS: DenialReason
DENIAL_REASON_ASSET_NOT_FOUND: DenialReason
DENIAL_REASON_INSUFFICIENT_FUNDS: DenialReason
DENIAL_REASON_CAP_EXCEEDED: DenialReason
DENIAL_REASON_HOLD_RELEASED: DenialReason

class Denial(_message.Message):
    __slots__ = ("reason", "asset", "required_units", "available_units", "cap", "retry_time")
    REASON_FIELD_NUMBER: _ClassVar[int]
    ASSET_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_UNITS_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_UNITS_FIELD_NUMBER: _ClassVar[int]
    CAP_FIELD_NUMBER: _ClassVar[int]
    RETRY_TIME_FIELD_NUMBER: _ClassVar[int]
    reason: DenialReason
    asset: str
    required_units: int
    available_units: int
    cap: _types_pb2.CapStatus
    retry_time: _timestamp_pb2.Timestamp
    def __init__(self, reason: _Optional[_Union[DenialReason, str]] = ..., asset: _Optional[str] = ..., required_units: _Optional[int] = ..., available_units: _Optional[int] = ..., cap: _Optional[_Union[_types_pb2.CapStatus, _Mapping]] = ..., retry_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Alternative(_message.Message):
    __slots__ = ("amounts",)
    AMOUNTS_FIELD_NUMBER: _ClassVar[int]
    amounts: _containers.RepeatedCompositeFieldContainer[_types_pb2.Amount]
    def __init__(self, amounts: _Optional[_Iterable[_Union[_types_pb2.Amount, _Mapping]]] = ...) -> None: ...

class AuthorizeRequest(_message.Message):
    __slots__ = ("wallet_id", "hold_id", "amounts", "ttl", "subjects", "alternatives", "overage_policy", "expiry_action", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNTS_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    ALTERNATIVES_FIELD_NUMBER: _ClassVar[int]
    OVERAGE_POLICY_FIELD_NUMBER: _ClassVar[int]
    EXPIRY_ACTION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    hold_id: str
    amounts: _containers.RepeatedCompositeFieldContainer[_types_pb2.Amount]
    ttl: _duration_pb2.Duration
    subjects: _containers.RepeatedScalarFieldContainer[str]
    alternatives: _containers.RepeatedCompositeFieldContainer[Alternative]
    overage_policy: _types_pb2.OveragePolicy
    expiry_action: _types_pb2.ExpiryAction
    labels: _containers.ScalarMap[str, str]
    def __init__(self, wallet_id: _Optional[str] = ..., hold_id: _Optional[str] = ..., amounts: _Optional[_Iterable[_Union[_types_pb2.Amount, _Mapping]]] = ..., ttl: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., subjects: _Optional[_Iterable[str]] = ..., alternatives: _Optional[_Iterable[_Union[Alternative, _Mapping]]] = ..., overage_policy: _Optional[_Union[_types_pb2.OveragePolicy, str]] = ..., expiry_action: _Optional[_Union[_types_pb2.ExpiryAction, str]] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class AuthorizeResponse(_message.Message):
    __slots__ = ("decision", "denial", "hold", "balances", "replayed", "alternative_index", "observed_caps")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    DENIAL_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    BALANCES_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    ALTERNATIVE_INDEX_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_CAPS_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    denial: Denial
    hold: _types_pb2.Hold
    balances: _containers.RepeatedCompositeFieldContainer[_types_pb2.Balance]
    replayed: bool
    alternative_index: int
    observed_caps: _containers.RepeatedCompositeFieldContainer[_types_pb2.CapStatus]
    def __init__(self, decision: _Optional[_Union[Decision, str]] = ..., denial: _Optional[_Union[Denial, _Mapping]] = ..., hold: _Optional[_Union[_types_pb2.Hold, _Mapping]] = ..., balances: _Optional[_Iterable[_Union[_types_pb2.Balance, _Mapping]]] = ..., replayed: bool = ..., alternative_index: _Optional[int] = ..., observed_caps: _Optional[_Iterable[_Union[_types_pb2.CapStatus, _Mapping]]] = ...) -> None: ...

class CommitRequest(_message.Message):
    __slots__ = ("wallet_id", "hold_id", "amounts", "final", "hold_token", "wait_for_ledger")
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNTS_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    HOLD_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WAIT_FOR_LEDGER_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    hold_id: str
    amounts: _containers.RepeatedCompositeFieldContainer[_types_pb2.Amount]
    final: bool
    hold_token: bytes
    wait_for_ledger: _duration_pb2.Duration
    def __init__(self, wallet_id: _Optional[str] = ..., hold_id: _Optional[str] = ..., amounts: _Optional[_Iterable[_Union[_types_pb2.Amount, _Mapping]]] = ..., final: bool = ..., hold_token: _Optional[bytes] = ..., wait_for_ledger: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class CommitResponse(_message.Message):
    __slots__ = ("hold", "debited", "released", "uncollected", "balances", "wallet_sequence", "late", "replayed", "in_ledger")
    HOLD_FIELD_NUMBER: _ClassVar[int]
    DEBITED_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    UNCOLLECTED_FIELD_NUMBER: _ClassVar[int]
    BALANCES_FIELD_NUMBER: _ClassVar[int]
    WALLET_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    IN_LEDGER_FIELD_NUMBER: _ClassVar[int]
    hold: _types_pb2.Hold
    debited: _containers.RepeatedCompositeFieldContainer[_types_pb2.Amount]
    released: _containers.RepeatedCompositeFieldContainer[_types_pb2.Amount]
    uncollected: _containers.RepeatedCompositeFieldContainer[_types_pb2.Amount]
    balances: _containers.RepeatedCompositeFieldContainer[_types_pb2.Balance]
    wallet_sequence: int
    late: bool
    replayed: bool
    in_ledger: bool
    def __init__(self, hold: _Optional[_Union[_types_pb2.Hold, _Mapping]] = ..., debited: _Optional[_Iterable[_Union[_types_pb2.Amount, _Mapping]]] = ..., released: _Optional[_Iterable[_Union[_types_pb2.Amount, _Mapping]]] = ..., uncollected: _Optional[_Iterable[_Union[_types_pb2.Amount, _Mapping]]] = ..., balances: _Optional[_Iterable[_Union[_types_pb2.Balance, _Mapping]]] = ..., wallet_sequence: _Optional[int] = ..., late: bool = ..., replayed: bool = ..., in_ledger: bool = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("wallet_id", "hold_id", "reason")
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    hold_id: str
    reason: str
    def __init__(self, wallet_id: _Optional[str] = ..., hold_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ("hold", "balances", "replayed")
    HOLD_FIELD_NUMBER: _ClassVar[int]
    BALANCES_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    hold: _types_pb2.Hold
    balances: _containers.RepeatedCompositeFieldContainer[_types_pb2.Balance]
    replayed: bool
    def __init__(self, hold: _Optional[_Union[_types_pb2.Hold, _Mapping]] = ..., balances: _Optional[_Iterable[_Union[_types_pb2.Balance, _Mapping]]] = ..., replayed: bool = ...) -> None: ...

class ExtendRequest(_message.Message):
    __slots__ = ("wallet_id", "hold_id", "ttl", "amounts")
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    AMOUNTS_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    hold_id: str
    ttl: _duration_pb2.Duration
    amounts: _containers.RepeatedCompositeFieldContainer[_types_pb2.Amount]
    def __init__(self, wallet_id: _Optional[str] = ..., hold_id: _Optional[str] = ..., ttl: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., amounts: _Optional[_Iterable[_Union[_types_pb2.Amount, _Mapping]]] = ...) -> None: ...

class ExtendResponse(_message.Message):
    __slots__ = ("decision", "denial", "hold", "balances", "observed_caps")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    DENIAL_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    BALANCES_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_CAPS_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    denial: Denial
    hold: _types_pb2.Hold
    balances: _containers.RepeatedCompositeFieldContainer[_types_pb2.Balance]
    observed_caps: _containers.RepeatedCompositeFieldContainer[_types_pb2.CapStatus]
    def __init__(self, decision: _Optional[_Union[Decision, str]] = ..., denial: _Optional[_Union[Denial, _Mapping]] = ..., hold: _Optional[_Union[_types_pb2.Hold, _Mapping]] = ..., balances: _Optional[_Iterable[_Union[_types_pb2.Balance, _Mapping]]] = ..., observed_caps: _Optional[_Iterable[_Union[_types_pb2.CapStatus, _Mapping]]] = ...) -> None: ...

class ChargeRequest(_message.Message):
    __slots__ = ("wallet_id", "charge_id", "amounts", "subjects", "overage_policy", "labels", "wait_for_ledger")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    CHARGE_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNTS_FIELD_NUMBER: _ClassVar[int]
    SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    OVERAGE_POLICY_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    WAIT_FOR_LEDGER_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    charge_id: str
    amounts: _containers.RepeatedCompositeFieldContainer[_types_pb2.Amount]
    subjects: _containers.RepeatedScalarFieldContainer[str]
    overage_policy: _types_pb2.OveragePolicy
    labels: _containers.ScalarMap[str, str]
    wait_for_ledger: _duration_pb2.Duration
    def __init__(self, wallet_id: _Optional[str] = ..., charge_id: _Optional[str] = ..., amounts: _Optional[_Iterable[_Union[_types_pb2.Amount, _Mapping]]] = ..., subjects: _Optional[_Iterable[str]] = ..., overage_policy: _Optional[_Union[_types_pb2.OveragePolicy, str]] = ..., labels: _Optional[_Mapping[str, str]] = ..., wait_for_ledger: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ChargeResponse(_message.Message):
    __slots__ = ("decision", "denial", "hold", "debited", "uncollected", "balances", "wallet_sequence", "replayed", "observed_caps", "in_ledger")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    DENIAL_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    DEBITED_FIELD_NUMBER: _ClassVar[int]
    UNCOLLECTED_FIELD_NUMBER: _ClassVar[int]
    BALANCES_FIELD_NUMBER: _ClassVar[int]
    WALLET_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_CAPS_FIELD_NUMBER: _ClassVar[int]
    IN_LEDGER_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    denial: Denial
    hold: _types_pb2.Hold
    debited: _containers.RepeatedCompositeFieldContainer[_types_pb2.Amount]
    uncollected: _containers.RepeatedCompositeFieldContainer[_types_pb2.Amount]
    balances: _containers.RepeatedCompositeFieldContainer[_types_pb2.Balance]
    wallet_sequence: int
    replayed: bool
    observed_caps: _containers.RepeatedCompositeFieldContainer[_types_pb2.CapStatus]
    in_ledger: bool
    def __init__(self, decision: _Optional[_Union[Decision, str]] = ..., denial: _Optional[_Union[Denial, _Mapping]] = ..., hold: _Optional[_Union[_types_pb2.Hold, _Mapping]] = ..., debited: _Optional[_Iterable[_Union[_types_pb2.Amount, _Mapping]]] = ..., uncollected: _Optional[_Iterable[_Union[_types_pb2.Amount, _Mapping]]] = ..., balances: _Optional[_Iterable[_Union[_types_pb2.Balance, _Mapping]]] = ..., wallet_sequence: _Optional[int] = ..., replayed: bool = ..., observed_caps: _Optional[_Iterable[_Union[_types_pb2.CapStatus, _Mapping]]] = ..., in_ledger: bool = ...) -> None: ...

class RefundRequest(_message.Message):
    __slots__ = ("wallet_id", "hold_id", "refund_id", "amounts", "wait_for_ledger")
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    REFUND_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNTS_FIELD_NUMBER: _ClassVar[int]
    WAIT_FOR_LEDGER_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    hold_id: str
    refund_id: str
    amounts: _containers.RepeatedCompositeFieldContainer[_types_pb2.Amount]
    wait_for_ledger: _duration_pb2.Duration
    def __init__(self, wallet_id: _Optional[str] = ..., hold_id: _Optional[str] = ..., refund_id: _Optional[str] = ..., amounts: _Optional[_Iterable[_Union[_types_pb2.Amount, _Mapping]]] = ..., wait_for_ledger: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class RefundResponse(_message.Message):
    __slots__ = ("hold", "balances", "wallet_sequence", "replayed", "in_ledger")
    HOLD_FIELD_NUMBER: _ClassVar[int]
    BALANCES_FIELD_NUMBER: _ClassVar[int]
    WALLET_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    IN_LEDGER_FIELD_NUMBER: _ClassVar[int]
    hold: _types_pb2.Hold
    balances: _containers.RepeatedCompositeFieldContainer[_types_pb2.Balance]
    wallet_sequence: int
    replayed: bool
    in_ledger: bool
    def __init__(self, hold: _Optional[_Union[_types_pb2.Hold, _Mapping]] = ..., balances: _Optional[_Iterable[_Union[_types_pb2.Balance, _Mapping]]] = ..., wallet_sequence: _Optional[int] = ..., replayed: bool = ..., in_ledger: bool = ...) -> None: ...

class ForceReleaseRequest(_message.Message):
    __slots__ = ("wallet_id", "hold_id", "reason")
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    hold_id: str
    reason: str
    def __init__(self, wallet_id: _Optional[str] = ..., hold_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ForceReleaseResponse(_message.Message):
    __slots__ = ("hold", "balances", "replayed")
    HOLD_FIELD_NUMBER: _ClassVar[int]
    BALANCES_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    hold: _types_pb2.Hold
    balances: _containers.RepeatedCompositeFieldContainer[_types_pb2.Balance]
    replayed: bool
    def __init__(self, hold: _Optional[_Union[_types_pb2.Hold, _Mapping]] = ..., balances: _Optional[_Iterable[_Union[_types_pb2.Balance, _Mapping]]] = ..., replayed: bool = ...) -> None: ...

class GetHoldRequest(_message.Message):
    __slots__ = ("wallet_id", "hold_id")
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    hold_id: str
    def __init__(self, wallet_id: _Optional[str] = ..., hold_id: _Optional[str] = ...) -> None: ...

class GetHoldResponse(_message.Message):
    __slots__ = ("hold",)
    HOLD_FIELD_NUMBER: _ClassVar[int]
    hold: _types_pb2.Hold
    def __init__(self, hold: _Optional[_Union[_types_pb2.Hold, _Mapping]] = ...) -> None: ...

class ListHoldsRequest(_message.Message):
    __slots__ = ("wallet_id", "page_size", "page_token")
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    page_size: int
    page_token: str
    def __init__(self, wallet_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListHoldsResponse(_message.Message):
    __slots__ = ("holds", "next_page_token")
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    holds: _containers.RepeatedCompositeFieldContainer[_types_pb2.Hold]
    next_page_token: str
    def __init__(self, holds: _Optional[_Iterable[_Union[_types_pb2.Hold, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Operation(_message.Message):
    __slots__ = ("authorize", "commit", "release", "extend", "charge", "refund")
    AUTHORIZE_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    EXTEND_FIELD_NUMBER: _ClassVar[int]
    CHARGE_FIELD_NUMBER: _ClassVar[int]
    REFUND_FIELD_NUMBER: _ClassVar[int]
    authorize: AuthorizeRequest
    commit: CommitRequest
    release: ReleaseRequest
    extend: ExtendRequest
    charge: ChargeRequest
    refund: RefundRequest
    def __init__(self, authorize: _Optional[_Union[AuthorizeRequest, _Mapping]] = ..., commit: _Optional[_Union[CommitRequest, _Mapping]] = ..., release: _Optional[_Union[ReleaseRequest, _Mapping]] = ..., extend: _Optional[_Union[ExtendRequest, _Mapping]] = ..., charge: _Optional[_Union[ChargeRequest, _Mapping]] = ..., refund: _Optional[_Union[RefundRequest, _Mapping]] = ...) -> None: ...

class OperationResult(_message.Message):
    __slots__ = ("authorize", "commit", "release", "extend", "charge", "refund", "error")
    AUTHORIZE_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    EXTEND_FIELD_NUMBER: _ClassVar[int]
    CHARGE_FIELD_NUMBER: _ClassVar[int]
    REFUND_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    authorize: AuthorizeResponse
    commit: CommitResponse
    release: ReleaseResponse
    extend: ExtendResponse
    charge: ChargeResponse
    refund: RefundResponse
    error: OperationError
    def __init__(self, authorize: _Optional[_Union[AuthorizeResponse, _Mapping]] = ..., commit: _Optional[_Union[CommitResponse, _Mapping]] = ..., release: _Optional[_Union[ReleaseResponse, _Mapping]] = ..., extend: _Optional[_Union[ExtendResponse, _Mapping]] = ..., charge: _Optional[_Union[ChargeResponse, _Mapping]] = ..., refund: _Optional[_Union[RefundResponse, _Mapping]] = ..., error: _Optional[_Union[OperationError, _Mapping]] = ...) -> None: ...

class OperationError(_message.Message):
    __slots__ = ("code", "message", "details")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    details: _containers.RepeatedCompositeFieldContainer[_any_pb2.Any]
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., details: _Optional[_Iterable[_Union[_any_pb2.Any, _Mapping]]] = ...) -> None: ...

class BatchRequest(_message.Message):
    __slots__ = ("operations",)
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    operations: _containers.RepeatedCompositeFieldContainer[Operation]
    def __init__(self, operations: _Optional[_Iterable[_Union[Operation, _Mapping]]] = ...) -> None: ...

class BatchResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[OperationResult]
    def __init__(self, results: _Optional[_Iterable[_Union[OperationResult, _Mapping]]] = ...) -> None: ...

class SessionRequest(_message.Message):
    __slots__ = ("operations", "cancelled_tags")
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_TAGS_FIELD_NUMBER: _ClassVar[int]
    operations: _containers.RepeatedCompositeFieldContainer[SessionOperation]
    cancelled_tags: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, operations: _Optional[_Iterable[_Union[SessionOperation, _Mapping]]] = ..., cancelled_tags: _Optional[_Iterable[int]] = ...) -> None: ...

class SessionOperation(_message.Message):
    __slots__ = ("tag", "operation", "timeout", "traceparent", "tracestate")
    TAG_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    tag: int
    operation: Operation
    timeout: _duration_pb2.Duration
    traceparent: str
    tracestate: str
    def __init__(self, tag: _Optional[int] = ..., operation: _Optional[_Union[Operation, _Mapping]] = ..., timeout: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ...) -> None: ...

class SessionResponse(_message.Message):
    __slots__ = ("results", "going_away")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    GOING_AWAY_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[SessionResult]
    going_away: bool
    def __init__(self, results: _Optional[_Iterable[_Union[SessionResult, _Mapping]]] = ..., going_away: bool = ...) -> None: ...

class SessionResult(_message.Message):
    __slots__ = ("tag", "result")
    TAG_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    tag: int
    result: OperationResult
    def __init__(self, tag: _Optional[int] = ..., result: _Optional[_Union[OperationResult, _Mapping]] = ...) -> None: ...
