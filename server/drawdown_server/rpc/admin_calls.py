"""Which calls leave a record in the audit log, and what it says that they are about."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from drawdown_server.identity.admin_call import AdminCall

if TYPE_CHECKING:
    from google.protobuf.descriptor import FieldDescriptor

    from drawdown_server.identity.caller import Caller

TARGETS: Final = {
    "AssetService/CreateAsset": "asset:{asset}",
    "AuthorizationService/ForceRelease": "hold:{hold_id}",
    "CapService/SetCap": "cap:{subject}|{asset}|{window}",
    "CapService/RemoveCap": "cap:{subject}|{asset}|{window}",
    "GrantService/CreateGrant": "grant:{grant_id}",
    "GrantService/VoidGrant": "grant:{grant_id}",
    "GrantService/SetGrantExpiry": "grant:{grant_id}",
    "KeyService/CreateApiKey": "key:{key_id}",
    "KeyService/RotateApiKey": "key:{key_id}",
    "KeyService/RevokeApiKey": "key:{key_id}",
    "WalletService/CreateWallet": "wallet:{wallet_id}",
    "WalletService/FreezeWallet": "wallet:{wallet_id}",
    "WalletService/UnfreezeWallet": "wallet:{wallet_id}",
    "WalletService/CloseWallet": "wallet:{wallet_id}",
    "WalletService/SetOverdraftLimit": "overdraft:{asset}",
}
"""Every method that changes something, but the data plane's: the target in terms of its request's fields. Wallet tokens
are not among them: making one changes nothing, and front ends ask for many."""
PACKAGE: Final = "drawdown.v1."
RECORDED: Final = frozenset(PACKAGE + method for method in TARGETS)
"""Their full names, without a leading slash."""
OUT_OF_RANGE: Final = "out of range"
"""A time that no calendar has, or an endless span. Never recorded: such a request is refused."""
TEXT_CHARS_MAX: Final = 512
"""Of what an unchecked request may name. The longest target of a checked one is shorter."""


def admin_call(method: str, caller: Caller, request: Message, trace_id: str) -> AdminCall:
    """What a call will leave in the audit log, if its request is in order.

    Args:
        method: Full name without the leading slash; one of ``RECORDED``.
        caller: Who calls.
        request: Its request.
        trace_id: Empty: it has none.
    """
    name = method.removeprefix(PACKAGE)
    content = as_plain(request)
    return AdminCall(
        tenant_id=caller.tenant_id,
        principal=caller.principal,
        method=name,
        wallet_id=str(content.get("wallet_id", "")),
        target=TARGETS[name].format_map(defaultdict(str, content)),
        request=content,
        trace_id=trace_id,
    )


def denied_call(method: str, caller: Caller, request: Message | None, trace_id: str) -> AdminCall:
    """What a call leaves that a credential was not enough for. Nobody has checked what its request says.

    Args:
        method: Full name without the leading slash; one of ``RECORDED``.
        caller: Who calls.
        request: None: it could not be read.
        trace_id: Empty: it has none.
    """
    name = method.removeprefix(PACKAGE)
    call = AdminCall(caller.tenant_id, caller.principal, name, "", "", {}, trace_id)
    if request is not None:
        asked = admin_call(method, caller, request, trace_id)
        if asked.target.isprintable() and len(asked.target) <= TEXT_CHARS_MAX:
            call.target = asked.target
        if asked.wallet_id.isprintable() and len(asked.wallet_id) <= TEXT_CHARS_MAX:
            call.wallet_id = asked.wallet_id
    return call


def as_plain(message: Message) -> dict[str, object]:
    """A message as JSON can hold it: what is set, by field names.

    Enums by their short names, times as RFC 3339, spans as ``60s``.
    """
    return {field.name: _plain_field(field, value) for field, value in message.ListFields()}


def _plain_field(field: FieldDescriptor, value: object) -> object:
    if isinstance(value, Mapping):  # our maps hold texts
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain_value(field, item) for item in value]
    return _plain_value(field, value)


def _plain_value(field: FieldDescriptor, value: object) -> object:
    if isinstance(value, Timestamp | Duration):
        try:
            return value.ToJsonString()
        except ValueError:
            return OUT_OF_RANGE
    if isinstance(value, Message):
        return as_plain(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(cast("int", value))
        prefix = _prefix(field.enum_type.name)
        return value if known is None else known.name.removeprefix(prefix)
    return value


def _prefix(enum_name: str) -> str:
    """Of the values of an enum: ``CapWindow`` gives ``CAP_WINDOW_``."""
    words = "".join(f"_{letter}" if letter.isupper() else letter for letter in enum_name)
    return f"{words.removeprefix('_').upper()}_"
