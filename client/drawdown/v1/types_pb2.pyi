from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WalletState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WALLET_STATE_UNSPECIFIED: _ClassVar[WalletState]
    WALLET_STATE_ACTIVE: _ClassVar[WalletState]
    WALLET_STATE_FROZEN: _ClassVar[WalletState]
    WALLET_STATE_CLOSED: _ClassVar[WalletState]

class GrantSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GRANT_SOURCE_UNSPECIFIED: _ClassVar[GrantSource]
    GRANT_SOURCE_PURCHASE: _ClassVar[GrantSource]
    GRANT_SOURCE_PROMOTION: _ClassVar[GrantSource]
    GRANT_SOURCE_TOP_UP: _ClassVar[GrantSource]
    GRANT_SOURCE_REFUND: _ClassVar[GrantSource]
    GRANT_SOURCE_ADJUSTMENT: _ClassVar[GrantSource]

class OveragePolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OVERAGE_POLICY_UNSPECIFIED: _ClassVar[OveragePolicy]
    OVERAGE_POLICY_REJECT: _ClassVar[OveragePolicy]
    OVERAGE_POLICY_CHARGE_AVAILABLE: _ClassVar[OveragePolicy]
    OVERAGE_POLICY_CHARGE_FULL: _ClassVar[OveragePolicy]

class ExpiryAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXPIRY_ACTION_UNSPECIFIED: _ClassVar[ExpiryAction]
    EXPIRY_ACTION_RELEASE: _ClassVar[ExpiryAction]
    EXPIRY_ACTION_COMMIT_FULL: _ClassVar[ExpiryAction]

class HoldState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HOLD_STATE_UNSPECIFIED: _ClassVar[HoldState]
    HOLD_STATE_HELD: _ClassVar[HoldState]
    HOLD_STATE_COMMITTED: _ClassVar[HoldState]
    HOLD_STATE_RELEASED: _ClassVar[HoldState]
    HOLD_STATE_EXPIRED: _ClassVar[HoldState]

class EntryKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENTRY_KIND_UNSPECIFIED: _ClassVar[EntryKind]
    ENTRY_KIND_GRANT: _ClassVar[EntryKind]
    ENTRY_KIND_DEBIT: _ClassVar[EntryKind]
    ENTRY_KIND_EXPIRE: _ClassVar[EntryKind]
    ENTRY_KIND_REFUND: _ClassVar[EntryKind]
    ENTRY_KIND_VOID: _ClassVar[EntryKind]
    ENTRY_KIND_ADJUST: _ClassVar[EntryKind]
    ENTRY_KIND_REPAY: _ClassVar[EntryKind]

class CapWindow(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CAP_WINDOW_UNSPECIFIED: _ClassVar[CapWindow]
    CAP_WINDOW_PER_REQUEST: _ClassVar[CapWindow]
    CAP_WINDOW_MINUTE: _ClassVar[CapWindow]
    CAP_WINDOW_HOUR: _ClassVar[CapWindow]
    CAP_WINDOW_DAY: _ClassVar[CapWindow]
    CAP_WINDOW_WEEK: _ClassVar[CapWindow]
    CAP_WINDOW_MONTH: _ClassVar[CapWindow]
    CAP_WINDOW_LIFETIME: _ClassVar[CapWindow]

class CapMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CAP_MODE_UNSPECIFIED: _ClassVar[CapMode]
    CAP_MODE_ENFORCE: _ClassVar[CapMode]
    CAP_MODE_OBSERVE: _ClassVar[CapMode]

class Scope(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCOPE_UNSPECIFIED: _ClassVar[Scope]
    SCOPE_AUTHORIZE: _ClassVar[Scope]
    SCOPE_READ: _ClassVar[Scope]
    SCOPE_WALLETS: _ClassVar[Scope]
    SCOPE_FUNDS: _ClassVar[Scope]
    SCOPE_ADMIN: _ClassVar[Scope]
WALLET_STATE_UNSPECIFIED: WalletState
WALLET_STATE_ACTIVE: WalletState
WALLET_STATE_FROZEN: WalletState
WALLET_STATE_CLOSED: WalletState
GRANT_SOURCE_UNSPECIFIED: GrantSource
GRANT_SOURCE_PURCHASE: GrantSource
GRANT_SOURCE_PROMOTION: GrantSource
GRANT_SOURCE_TOP_UP: GrantSource
GRANT_SOURCE_REFUND: GrantSource
GRANT_SOURCE_ADJUSTMENT: GrantSource
OVERAGE_POLICY_UNSPECIFIED: OveragePolicy
OVERAGE_POLICY_REJECT: OveragePolicy
OVERAGE_POLICY_CHARGE_AVAILABLE: OveragePolicy
OVERAGE_POLICY_CHARGE_FULL: OveragePolicy
EXPIRY_ACTION_UNSPECIFIED: ExpiryAction
EXPIRY_ACTION_RELEASE: ExpiryAction
EXPIRY_ACTION_COMMIT_FULL: ExpiryAction
HOLD_STATE_UNSPECIFIED: HoldState
HOLD_STATE_HELD: HoldState
HOLD_STATE_COMMITTED: HoldState
HOLD_STATE_RELEASED: HoldState
HOLD_STATE_EXPIRED: HoldState
ENTRY_KIND_UNSPECIFIED: EntryKind
ENTRY_KIND_GRANT: EntryKind
ENTRY_KIND_DEBIT: EntryKind
ENTRY_KIND_EXPIRE: EntryKind
ENTRY_KIND_REFUND: EntryKind
ENTRY_KIND_VOID: EntryKind
ENTRY_KIND_ADJUST: EntryKind
ENTRY_KIND_REPAY: EntryKind
CAP_WINDOW_UNSPECIFIED: CapWindow
CAP_WINDOW_PER_REQUEST: CapWindow
CAP_WINDOW_MINUTE: CapWindow
CAP_WINDOW_HOUR: CapWindow
CAP_WINDOW_DAY: CapWindow
CAP_WINDOW_WEEK: CapWindow
CAP_WINDOW_MONTH: CapWindow
CAP_WINDOW_LIFETIME: CapWindow
CAP_MODE_UNSPECIFIED: CapMode
CAP_MODE_ENFORCE: CapMode
CAP_MODE_OBSERVE: CapMode
SCOPE_UNSPECIFIED: Scope
SCOPE_AUTHORIZE: Scope
SCOPE_READ: Scope
SCOPE_WALLETS: Scope
SCOPE_FUNDS: Scope
SCOPE_ADMIN: Scope

class Amount(_message.Message):
    __slots__ = ("asset", "units", "min_units")
    ASSET_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    MIN_UNITS_FIELD_NUMBER: _ClassVar[int]
    asset: str
    units: int
    min_units: int
    def __init__(self, asset: _Optional[str] = ..., units: _Optional[int] = ..., min_units: _Optional[int] = ...) -> None: ...

class Asset(_message.Message):
    __slots__ = ("asset", "scale", "display_name", "default_overage_policy", "create_time")
    ASSET_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_OVERAGE_POLICY_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    asset: str
    scale: int
    display_name: str
    default_overage_policy: OveragePolicy
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, asset: _Optional[str] = ..., scale: _Optional[int] = ..., display_name: _Optional[str] = ..., default_overage_policy: _Optional[_Union[OveragePolicy, str]] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Wallet(_message.Message):
    __slots__ = ("wallet_id", "state", "display_name", "labels", "create_time", "update_time")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    state: WalletState
    display_name: str
    labels: _containers.ScalarMap[str, str]
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    def __init__(self, wallet_id: _Optional[str] = ..., state: _Optional[_Union[WalletState, str]] = ..., display_name: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Grant(_message.Message):
    __slots__ = ("wallet_id", "grant_id", "asset", "units", "remaining_units", "priority", "source", "effective_time", "expire_time", "labels", "create_time", "void_time")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    GRANT_ID_FIELD_NUMBER: _ClassVar[int]
    ASSET_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    REMAINING_UNITS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    VOID_TIME_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    grant_id: str
    asset: str
    units: int
    remaining_units: int
    priority: int
    source: GrantSource
    effective_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    labels: _containers.ScalarMap[str, str]
    create_time: _timestamp_pb2.Timestamp
    void_time: _timestamp_pb2.Timestamp
    def __init__(self, wallet_id: _Optional[str] = ..., grant_id: _Optional[str] = ..., asset: _Optional[str] = ..., units: _Optional[int] = ..., remaining_units: _Optional[int] = ..., priority: _Optional[int] = ..., source: _Optional[_Union[GrantSource, str]] = ..., effective_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., void_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Balance(_message.Message):
    __slots__ = ("asset", "settled_units", "held_units", "available_units", "debt_units", "overdraft_limit_units", "grants", "scheduled_grants")
    ASSET_FIELD_NUMBER: _ClassVar[int]
    SETTLED_UNITS_FIELD_NUMBER: _ClassVar[int]
    HELD_UNITS_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_UNITS_FIELD_NUMBER: _ClassVar[int]
    DEBT_UNITS_FIELD_NUMBER: _ClassVar[int]
    OVERDRAFT_LIMIT_UNITS_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    SCHEDULED_GRANTS_FIELD_NUMBER: _ClassVar[int]
    asset: str
    settled_units: int
    held_units: int
    available_units: int
    debt_units: int
    overdraft_limit_units: int
    grants: _containers.RepeatedCompositeFieldContainer[GrantBalance]
    scheduled_grants: _containers.RepeatedCompositeFieldContainer[GrantBalance]
    def __init__(self, asset: _Optional[str] = ..., settled_units: _Optional[int] = ..., held_units: _Optional[int] = ..., available_units: _Optional[int] = ..., debt_units: _Optional[int] = ..., overdraft_limit_units: _Optional[int] = ..., grants: _Optional[_Iterable[_Union[GrantBalance, _Mapping]]] = ..., scheduled_grants: _Optional[_Iterable[_Union[GrantBalance, _Mapping]]] = ...) -> None: ...

class GrantBalance(_message.Message):
    __slots__ = ("grant_id", "available_units", "held_units", "priority", "source", "effective_time", "expire_time")
    GRANT_ID_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_UNITS_FIELD_NUMBER: _ClassVar[int]
    HELD_UNITS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    grant_id: str
    available_units: int
    held_units: int
    priority: int
    source: GrantSource
    effective_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, grant_id: _Optional[str] = ..., available_units: _Optional[int] = ..., held_units: _Optional[int] = ..., priority: _Optional[int] = ..., source: _Optional[_Union[GrantSource, str]] = ..., effective_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class HoldAmount(_message.Message):
    __slots__ = ("asset", "authorized_units", "held_units", "debited_units", "uncollected_units", "refunded_units", "overage_policy")
    ASSET_FIELD_NUMBER: _ClassVar[int]
    AUTHORIZED_UNITS_FIELD_NUMBER: _ClassVar[int]
    HELD_UNITS_FIELD_NUMBER: _ClassVar[int]
    DEBITED_UNITS_FIELD_NUMBER: _ClassVar[int]
    UNCOLLECTED_UNITS_FIELD_NUMBER: _ClassVar[int]
    REFUNDED_UNITS_FIELD_NUMBER: _ClassVar[int]
    OVERAGE_POLICY_FIELD_NUMBER: _ClassVar[int]
    asset: str
    authorized_units: int
    held_units: int
    debited_units: int
    uncollected_units: int
    refunded_units: int
    overage_policy: OveragePolicy
    def __init__(self, asset: _Optional[str] = ..., authorized_units: _Optional[int] = ..., held_units: _Optional[int] = ..., debited_units: _Optional[int] = ..., uncollected_units: _Optional[int] = ..., refunded_units: _Optional[int] = ..., overage_policy: _Optional[_Union[OveragePolicy, str]] = ...) -> None: ...

class Hold(_message.Message):
    __slots__ = ("wallet_id", "hold_id", "state", "amounts", "create_time", "expire_time", "settle_time", "subjects", "overage_policy", "expiry_action", "labels", "hold_token", "wallet_sequence", "alternative_index")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    AMOUNTS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    SETTLE_TIME_FIELD_NUMBER: _ClassVar[int]
    SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    OVERAGE_POLICY_FIELD_NUMBER: _ClassVar[int]
    EXPIRY_ACTION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    HOLD_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WALLET_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ALTERNATIVE_INDEX_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    hold_id: str
    state: HoldState
    amounts: _containers.RepeatedCompositeFieldContainer[HoldAmount]
    create_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    settle_time: _timestamp_pb2.Timestamp
    subjects: _containers.RepeatedScalarFieldContainer[str]
    overage_policy: OveragePolicy
    expiry_action: ExpiryAction
    labels: _containers.ScalarMap[str, str]
    hold_token: bytes
    wallet_sequence: int
    alternative_index: int
    def __init__(self, wallet_id: _Optional[str] = ..., hold_id: _Optional[str] = ..., state: _Optional[_Union[HoldState, str]] = ..., amounts: _Optional[_Iterable[_Union[HoldAmount, _Mapping]]] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., settle_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., subjects: _Optional[_Iterable[str]] = ..., overage_policy: _Optional[_Union[OveragePolicy, str]] = ..., expiry_action: _Optional[_Union[ExpiryAction, str]] = ..., labels: _Optional[_Mapping[str, str]] = ..., hold_token: _Optional[bytes] = ..., wallet_sequence: _Optional[int] = ..., alternative_index: _Optional[int] = ...) -> None: ...

class Entry(_message.Message):
    __slots__ = ("wallet_id", "wallet_sequence", "line", "kind", "asset", "units", "debit_account", "credit_account", "grant_id", "hold_id", "subjects", "occurred_time", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    WALLET_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ASSET_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    DEBIT_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    CREDIT_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    GRANT_ID_FIELD_NUMBER: _ClassVar[int]
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_TIME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
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
    subjects: _containers.RepeatedScalarFieldContainer[str]
    occurred_time: _timestamp_pb2.Timestamp
    labels: _containers.ScalarMap[str, str]
    def __init__(self, wallet_id: _Optional[str] = ..., wallet_sequence: _Optional[int] = ..., line: _Optional[int] = ..., kind: _Optional[_Union[EntryKind, str]] = ..., asset: _Optional[str] = ..., units: _Optional[int] = ..., debit_account: _Optional[str] = ..., credit_account: _Optional[str] = ..., grant_id: _Optional[str] = ..., hold_id: _Optional[str] = ..., subjects: _Optional[_Iterable[str]] = ..., occurred_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Cap(_message.Message):
    __slots__ = ("wallet_id", "subject", "asset", "window", "limit_units", "mode")
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    ASSET_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    LIMIT_UNITS_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    subject: str
    asset: str
    window: CapWindow
    limit_units: int
    mode: CapMode
    def __init__(self, wallet_id: _Optional[str] = ..., subject: _Optional[str] = ..., asset: _Optional[str] = ..., window: _Optional[_Union[CapWindow, str]] = ..., limit_units: _Optional[int] = ..., mode: _Optional[_Union[CapMode, str]] = ...) -> None: ...

class CapStatus(_message.Message):
    __slots__ = ("subject", "asset", "window", "limit_units", "used_units", "reset_time", "cap_subject", "mode")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    ASSET_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    LIMIT_UNITS_FIELD_NUMBER: _ClassVar[int]
    USED_UNITS_FIELD_NUMBER: _ClassVar[int]
    RESET_TIME_FIELD_NUMBER: _ClassVar[int]
    CAP_SUBJECT_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    subject: str
    asset: str
    window: CapWindow
    limit_units: int
    used_units: int
    reset_time: _timestamp_pb2.Timestamp
    cap_subject: str
    mode: CapMode
    def __init__(self, subject: _Optional[str] = ..., asset: _Optional[str] = ..., window: _Optional[_Union[CapWindow, str]] = ..., limit_units: _Optional[int] = ..., used_units: _Optional[int] = ..., reset_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., cap_subject: _Optional[str] = ..., mode: _Optional[_Union[CapMode, str]] = ...) -> None: ...

class ApiKey(_message.Message):
    __slots__ = ("key_id", "display_name", "scopes", "create_time", "expire_time", "revoke_time", "secrets")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    REVOKE_TIME_FIELD_NUMBER: _ClassVar[int]
    SECRETS_FIELD_NUMBER: _ClassVar[int]
    key_id: str
    display_name: str
    scopes: _containers.RepeatedScalarFieldContainer[Scope]
    create_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    revoke_time: _timestamp_pb2.Timestamp
    secrets: _containers.RepeatedCompositeFieldContainer[ApiKeySecret]
    def __init__(self, key_id: _Optional[str] = ..., display_name: _Optional[str] = ..., scopes: _Optional[_Iterable[_Union[Scope, str]]] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., revoke_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., secrets: _Optional[_Iterable[_Union[ApiKeySecret, _Mapping]]] = ...) -> None: ...

class ApiKeySecret(_message.Message):
    __slots__ = ("secret_id", "create_time", "expire_time")
    SECRET_ID_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    secret_id: str
    create_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, secret_id: _Optional[str] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
