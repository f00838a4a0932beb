from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_FIELD: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_SUPPORTED: _ClassVar[ErrorReason]
    ERROR_REASON_ID_REUSED: _ClassVar[ErrorReason]
    ERROR_REASON_WALLET_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_HOLD_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_ASSET_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_GRANT_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_HOLD_RELEASED: _ClassVar[ErrorReason]
    ERROR_REASON_HOLD_COMMITTED: _ClassVar[ErrorReason]
    ERROR_REASON_EXCEEDS_HOLD: _ClassVar[ErrorReason]
    ERROR_REASON_ASSET_NOT_HELD: _ClassVar[ErrorReason]
    ERROR_REASON_INSUFFICIENT_FUNDS: _ClassVar[ErrorReason]
    ERROR_REASON_WALLET_CLOSED: _ClassVar[ErrorReason]
    ERROR_REASON_BALANCE_OUT_OF_RANGE: _ClassVar[ErrorReason]
    ERROR_REASON_TOO_MANY_GRANTS: _ClassVar[ErrorReason]
    ERROR_REASON_STORE_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_DEADLINE_EXCEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_IMPLEMENTED: _ClassVar[ErrorReason]
    ERROR_REASON_TOTAL_BELOW_DEBITED: _ClassVar[ErrorReason]
    ERROR_REASON_HOLD_EXPIRED: _ClassVar[ErrorReason]
    ERROR_REASON_BELOW_HOLD: _ClassVar[ErrorReason]
    ERROR_REASON_EXCEEDS_DEBITED: _ClassVar[ErrorReason]
    ERROR_REASON_WALLET_NOT_EMPTY: _ClassVar[ErrorReason]
    ERROR_REASON_TOO_MANY_CAPS: _ClassVar[ErrorReason]
    ERROR_REASON_INTERNAL: _ClassVar[ErrorReason]
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_INVALID_FIELD: ErrorReason
ERROR_REASON_NOT_SUPPORTED: ErrorReason
ERROR_REASON_ID_REUSED: ErrorReason
ERROR_REASON_WALLET_NOT_FOUND: ErrorReason
ERROR_REASON_HOLD_NOT_FOUND: ErrorReason
ERROR_REASON_ASSET_NOT_FOUND: ErrorReason
ERROR_REASON_GRANT_NOT_FOUND: ErrorReason
ERROR_REASON_HOLD_RELEASED: ErrorReason
ERROR_REASON_HOLD_COMMITTED: ErrorReason
ERROR_REASON_EXCEEDS_HOLD: ErrorReason
ERROR_REASON_ASSET_NOT_HELD: ErrorReason
ERROR_REASON_INSUFFICIENT_FUNDS: ErrorReason
ERROR_REASON_WALLET_CLOSED: ErrorReason
ERROR_REASON_BALANCE_OUT_OF_RANGE: ErrorReason
ERROR_REASON_TOO_MANY_GRANTS: ErrorReason
ERROR_REASON_STORE_UNAVAILABLE: ErrorReason
ERROR_REASON_DEADLINE_EXCEEDED: ErrorReason
ERROR_REASON_NOT_IMPLEMENTED: ErrorReason
ERROR_REASON_TOTAL_BELOW_DEBITED: ErrorReason
ERROR_REASON_HOLD_EXPIRED: ErrorReason
ERROR_REASON_BELOW_HOLD: ErrorReason
ERROR_REASON_EXCEEDS_DEBITED: ErrorReason
ERROR_REASON_WALLET_NOT_EMPTY: ErrorReason
ERROR_REASON_TOO_MANY_CAPS: ErrorReason
ERROR_REASON_INTERNAL: ErrorReason
