from drawdown.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetBalanceRequest(_message.Message):
    __slots__ = ("wallet_id", "assets", "include_grants")
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    ASSETS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_GRANTS_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    assets: _containers.RepeatedScalarFieldContainer[str]
    include_grants: bool
    def __init__(self, wallet_id: _Optional[str] = ..., assets: _Optional[_Iterable[str]] = ..., include_grants: bool = ...) -> None: ...

class GetBalanceResponse(_message.Message):
    __slots__ = ("balances", "wallet_sequence", "state", "open_holds")
    BALANCES_FIELD_NUMBER: _ClassVar[int]
    WALLET_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    OPEN_HOLDS_FIELD_NUMBER: _ClassVar[int]
    balances: _containers.RepeatedCompositeFieldContainer[_types_pb2.Balance]
    wallet_sequence: int
    state: _types_pb2.WalletState
    open_holds: int
    def __init__(self, balances: _Optional[_Iterable[_Union[_types_pb2.Balance, _Mapping]]] = ..., wallet_sequence: _Optional[int] = ..., state: _Optional[_Union[_types_pb2.WalletState, str]] = ..., open_holds: _Optional[int] = ...) -> None: ...
