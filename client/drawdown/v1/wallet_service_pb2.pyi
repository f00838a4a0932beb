from drawdown.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CreateWalletRequest(_message.Message):
    __slots__ = ("wallet_id", "display_name", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    display_name: str
    labels: _containers.ScalarMap[str, str]
    def __init__(self, wallet_id: _Optional[str] = ..., display_name: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class CreateWalletResponse(_message.Message):
    __slots__ = ("wallet",)
    WALLET_FIELD_NUMBER: _ClassVar[int]
    wallet: _types_pb2.Wallet
    def __init__(self, wallet: _Optional[_Union[_types_pb2.Wallet, _Mapping]] = ...) -> None: ...

class GetWalletRequest(_message.Message):
    __slots__ = ("wallet_id",)
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    def __init__(self, wallet_id: _Optional[str] = ...) -> None: ...

class GetWalletResponse(_message.Message):
    __slots__ = ("wallet",)
    WALLET_FIELD_NUMBER: _ClassVar[int]
    wallet: _types_pb2.Wallet
    def __init__(self, wallet: _Optional[_Union[_types_pb2.Wallet, _Mapping]] = ...) -> None: ...

class ListWalletsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListWalletsResponse(_message.Message):
    __slots__ = ("wallets", "next_page_token")
    WALLETS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    wallets: _containers.RepeatedCompositeFieldContainer[_types_pb2.Wallet]
    next_page_token: str
    def __init__(self, wallets: _Optional[_Iterable[_Union[_types_pb2.Wallet, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class FreezeWalletRequest(_message.Message):
    __slots__ = ("wallet_id", "reason")
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    reason: str
    def __init__(self, wallet_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class FreezeWalletResponse(_message.Message):
    __slots__ = ("wallet",)
    WALLET_FIELD_NUMBER: _ClassVar[int]
    wallet: _types_pb2.Wallet
    def __init__(self, wallet: _Optional[_Union[_types_pb2.Wallet, _Mapping]] = ...) -> None: ...

class UnfreezeWalletRequest(_message.Message):
    __slots__ = ("wallet_id", "reason")
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    reason: str
    def __init__(self, wallet_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class UnfreezeWalletResponse(_message.Message):
    __slots__ = ("wallet",)
    WALLET_FIELD_NUMBER: _ClassVar[int]
    wallet: _types_pb2.Wallet
    def __init__(self, wallet: _Optional[_Union[_types_pb2.Wallet, _Mapping]] = ...) -> None: ...

class CloseWalletRequest(_message.Message):
    __slots__ = ("wallet_id", "force", "reason")
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    force: bool
    reason: str
    def __init__(self, wallet_id: _Optional[str] = ..., force: bool = ..., reason: _Optional[str] = ...) -> None: ...

class CloseWalletResponse(_message.Message):
    __slots__ = ("wallet",)
    WALLET_FIELD_NUMBER: _ClassVar[int]
    wallet: _types_pb2.Wallet
    def __init__(self, wallet: _Optional[_Union[_types_pb2.Wallet, _Mapping]] = ...) -> None: ...

class SetOverdraftLimitRequest(_message.Message):
    __slots__ = ("wallet_id", "asset", "limit_units", "reason")
    WALLET_ID_FIELD_NUMBER: _ClassVar[int]
    ASSET_FIELD_NUMBER: _ClassVar[int]
    LIMIT_UNITS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    wallet_id: str
    asset: str
    limit_units: int
    reason: str
    def __init__(self, wallet_id: _Optional[str] = ..., asset: _Optional[str] = ..., limit_units: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class SetOverdraftLimitResponse(_message.Message):
    __slots__ = ("balance",)
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    balance: _types_pb2.Balance
    def __init__(self, balance: _Optional[_Union[_types_pb2.Balance, _Mapping]] = ...) -> None: ...
