from drawdown.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SetCapRequest(_message.Message):
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
    window: _types_pb2.CapWindow
    limit_units: int
    mode: _types_pb2.CapMode
    def __init__(self, wallet_id: _Optional[str] = ..., subject: _Optional[str] = ..., asset: _Optional[str] = ..., window: _Optional[_Union[_types_pb2.CapWindow, str]] = ..., limit_units: _Optional[int] = ..., mode: _Optional[_Union[_types_pb2.CapMode, str]] = ...) -> None: ...

class SetCapResponse(_message.Message):
    __slots__ = ("cap",)
    CAP_FIELD_NUMBER: _ClassVar[int]
    cap: _types_pb2.Cap
    def __init__(self, cap: _Optional[_Union[_types_pb2.Cap, _Mapping]] = ...) -> None: ...

class RemoveCapRequest(_message.Message):
    __slots__ = ("wallet_id", "subject", "asset", "window")
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    ASSET_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    subject: str
    asset: str
    window: _types_pb2.CapWindow
    def __init__(self, wallet_id: _Optional[str] = ..., subject: _Optional[str] = ..., asset: _Optional[str] = ..., window: _Optional[_Union[_types_pb2.CapWindow, str]] = ...) -> None: ...

class RemoveCapResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListCapsRequest(_message.Message):
    __slots__ = ("wallet_id", "subjects")
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    subjects: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, wallet_id: _Optional[str] = ..., subjects: _Optional[_Iterable[str]] = ...) -> None: ...

class ListCapsResponse(_message.Message):
    __slots__ = ("caps", "usage")
    CAPS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    caps: _containers.RepeatedCompositeFieldContainer[_types_pb2.Cap]
    usage: _containers.RepeatedCompositeFieldContainer[_types_pb2.CapStatus]
    def __init__(self, caps: _Optional[_Iterable[_Union[_types_pb2.Cap, _Mapping]]] = ..., usage: _Optional[_Iterable[_Union[_types_pb2.CapStatus, _Mapping]]] = ...) -> None: ...
