from drawdown.v1 import types_pb2 as _types_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CreateGrantRequest(_message.Message):
    __slots__ = ("wallet_id", "grant_id", "asset", "units", "priority", "source", "effective_time", "expire_time", "labels")
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
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    grant_id: str
    asset: str
    units: int
    priority: int
    source: _types_pb2.GrantSource
    effective_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    labels: _containers.ScalarMap[str, str]
    def __init__(self, wallet_id: _Optional[str] = ..., grant_id: _Optional[str] = ..., asset: _Optional[str] = ..., units: _Optional[int] = ..., priority: _Optional[int] = ..., source: _Optional[_Union[_types_pb2.GrantSource, str]] = ..., effective_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class CreateGrantResponse(_message.Message):
    __slots__ = ("grant", "balance", "replayed")
    GRANT_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    grant: _types_pb2.Grant
    balance: _types_pb2.Balance
    replayed: bool
    def __init__(self, grant: _Optional[_Union[_types_pb2.Grant, _Mapping]] = ..., balance: _Optional[_Union[_types_pb2.Balance, _Mapping]] = ..., replayed: bool = ...) -> None: ...

class GetGrantRequest(_message.Message):
    __slots__ = ("wallet_id", "grant_id")
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    GRANT_ID_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    grant_id: str
    def __init__(self, wallet_id: _Optional[str] = ..., grant_id: _Optional[str] = ...) -> None: ...

class GetGrantResponse(_message.Message):
    __slots__ = ("grant",)
    GRANT_FIELD_NUMBER: _ClassVar[int]
    grant: _types_pb2.Grant
    def __init__(self, grant: _Optional[_Union[_types_pb2.Grant, _Mapping]] = ...) -> None: ...

class ListGrantsRequest(_message.Message):
    __slots__ = ("wallet_id", "asset", "page_size", "page_token")
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    ASSET_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    asset: str
    page_size: int
    page_token: str
    def __init__(self, wallet_id: _Optional[str] = ..., asset: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListGrantsResponse(_message.Message):
    __slots__ = ("grants", "next_page_token")
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    grants: _containers.RepeatedCompositeFieldContainer[_types_pb2.Grant]
    next_page_token: str
    def __init__(self, grants: _Optional[_Iterable[_Union[_types_pb2.Grant, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class VoidGrantRequest(_message.Message):
    __slots__ = ("wallet_id", "grant_id", "reason")
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    GRANT_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    grant_id: str
    reason: str
    def __init__(self, wallet_id: _Optional[str] = ..., grant_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class VoidGrantResponse(_message.Message):
    __slots__ = ("grant", "balance")
    GRANT_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    grant: _types_pb2.Grant
    balance: _types_pb2.Balance
    def __init__(self, grant: _Optional[_Union[_types_pb2.Grant, _Mapping]] = ..., balance: _Optional[_Union[_types_pb2.Balance, _Mapping]] = ...) -> None: ...

class SetGrantExpiryRequest(_message.Message):
    __slots__ = ("wallet_id", "grant_id", "expire_time", "reason")
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    GRANT_ID_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    grant_id: str
    expire_time: _timestamp_pb2.Timestamp
    reason: str
    def __init__(self, wallet_id: _Optional[str] = ..., grant_id: _Optional[str] = ..., expire_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class SetGrantExpiryResponse(_message.Message):
    __slots__ = ("grant", "balance")
    GRANT_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    grant: _types_pb2.Grant
    balance: _types_pb2.Balance
    def __init__(self, grant: _Optional[_Union[_types_pb2.Grant, _Mapping]] = ..., balance: _Optional[_Union[_types_pb2.Balance, _Mapping]] = ...) -> None: ...
