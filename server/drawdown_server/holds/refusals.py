"""What stops a hold script, as an error: every status that is neither OK nor an answer of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from drawdown_server.errors import DrawdownError, ErrorReason
from drawdown_server.holds.model import UNITS_MAX

if TYPE_CHECKING:
    from drawdown_server.holds.messages import AuthorizeReply, SettleReply


class GrantsMissingError(DrawdownError):
    """A refund must bring these grants as well: they are used up, and it goes back to them."""

    def __init__(self, grant_ids: list[str]) -> None:
        super().__init__(ErrorReason.INTERNAL, "internal error")
        self.grant_ids = grant_ids


@dataclass(frozen=True, slots=True)
class UnknownAt:
    """Where the store was when it did not know a hold: it tells how old is what Postgres said of the hold since."""

    epoch: int
    """Of the wallet's partition."""
    time_ms: int
    """By the store's clock."""


class HoldUnknownError(DrawdownError):
    """Redis knows no such hold: it never existed, was lost, or settled so long ago that only the ledger remembers.

    Args:
        ticket: Of a Commit: where the store was when it did not know the hold.
    """

    def __init__(self, wallet_id: str, hold_id: str, ticket: UnknownAt | None = None) -> None:
        super().__init__(
            ErrorReason.HOLD_NOT_FOUND,
            f"hold {hold_id} of wallet {wallet_id} does not exist or was settled too long ago",
            wallet_id=wallet_id,
            hold_id=hold_id,
        )
        self.ticket = ticket


def wallet_not_found(wallet_id: str) -> DrawdownError:
    """The error for a wallet that does not exist."""
    return DrawdownError(ErrorReason.WALLET_NOT_FOUND, f"wallet {wallet_id} does not exist", wallet_id=wallet_id)


def ledger_backlog() -> DrawdownError:
    """The error for new spending while too much of what was spent waits for the ledger."""
    return DrawdownError(
        ErrorReason.LEDGER_BACKLOG,
        "the ledger is too far behind to take new holds; holds that exist can be committed and released",
    )


def asset_not_found(asset: str) -> DrawdownError:
    """The error for an asset that does not exist."""
    return DrawdownError(ErrorReason.ASSET_NOT_FOUND, f"asset {asset} does not exist", asset=asset)


def grant_not_found(wallet_id: str, grant_id: str) -> DrawdownError:
    """The error for a grant that does not exist."""
    return DrawdownError(
        ErrorReason.GRANT_NOT_FOUND,
        f"grant {grant_id} of wallet {wallet_id} does not exist",
        wallet_id=wallet_id,
        grant_id=grant_id,
    )


def balance_out_of_range(asset: str) -> DrawdownError:
    """The error for what would bring a balance, with what may be owed, to where numbers are no longer exact."""
    return DrawdownError(
        ErrorReason.BALANCE_OUT_OF_RANGE,
        f"the balance of {asset} with its overdraft limit, or its debt, would exceed {UNITS_MAX} units",
        asset=asset,
        limit=str(UNITS_MAX),
    )


def hold_committed(wallet_id: str, hold_id: str) -> DrawdownError:
    """The error for a hold that is committed, with other totals than the caller's."""
    return DrawdownError(
        ErrorReason.HOLD_COMMITTED,
        f"hold {hold_id} is committed, with its own amounts",
        wallet_id=wallet_id,
        hold_id=hold_id,
        field="amounts",
    )


def dead_letter(wallet_id: str, hold_id: str) -> DrawdownError:
    """The error for a hold that cannot go on: an earlier Commit of it waits for an operator."""
    return _of_hold(
        ErrorReason.DEAD_LETTER,
        f"usage of hold {hold_id} was committed before and could not be recorded: an operator must do that first",
        wallet_id,
        hold_id,
    )


def token_key_unknown(key_id: str) -> DrawdownError:
    """The error for a token that is needed, and signed with a key that this server does not have."""
    return DrawdownError(
        ErrorReason.TOKEN_KEY_UNKNOWN,
        f"the store lost this hold, and this server has no key {key_id} to check its hold_token: "
        "set DRAWDOWN_HOLD_TOKEN_KEYS",
        key_id=key_id,
    )


def id_reused(resource: str, resource_id: str, field: str) -> DrawdownError:
    """The error for an id that was used before with other content."""
    return DrawdownError(
        ErrorReason.ID_REUSED,
        f"{resource} {resource_id} was made before with other {field}",
        resource=resource,
        id=resource_id,
        field=field,
    )


def refusal(wallet_id: str, hold_id: str, reply: AuthorizeReply | SettleReply) -> DrawdownError:
    """What stopped a verb on an existing hold."""
    match reply.status:
        case "HOLD_UNKNOWN":
            return HoldUnknownError(wallet_id, hold_id)
        case "HOLD_COMMITTED":
            return hold_committed(wallet_id, hold_id)
        case "HOLD_RELEASED":
            return _of_hold(ErrorReason.HOLD_RELEASED, f"hold {hold_id} was released", wallet_id, hold_id)
        case "HOLD_EXPIRED":
            message = f"hold {hold_id} expired; its usage can still be committed"
            return _of_hold(ErrorReason.HOLD_EXPIRED, message, wallet_id, hold_id)
        case "BALANCE_OUT_OF_RANGE":
            return balance_out_of_range(reply.asset)
        case _:
            return _of_asset(wallet_id, hold_id, reply)


def _of_hold(reason: ErrorReason, message: str, wallet_id: str, hold_id: str) -> DrawdownError:
    return DrawdownError(reason, message, wallet_id=wallet_id, hold_id=hold_id)


def _of_asset(wallet_id: str, hold_id: str, reply: AuthorizeReply | SettleReply) -> DrawdownError:
    """What stopped it at one asset."""
    asset, units, limit = reply.asset, reply.required, reply.available
    match reply.status:
        case "ASSET_NOT_HELD":
            reason, key = ErrorReason.ASSET_NOT_HELD, ""
            message = f"hold {hold_id} holds no {asset}"
        case "EXCEEDS_HOLD":
            reason, key = ErrorReason.EXCEEDS_HOLD, "held_units"
            message = f"{units} units of {asset} are more than the {limit} held"
        case "TOTAL_BELOW_DEBITED":
            reason, key = ErrorReason.TOTAL_BELOW_DEBITED, "debited_units"
            message = f"{units} units of {asset} are less than the {limit} committed so far: totals only grow"
        case "BELOW_HOLD":
            reason, key = ErrorReason.BELOW_HOLD, "authorized_units"
            message = f"{units} units of {asset} are less than the {limit} reserved: a hold is only raised"
        case "EXCEEDS_DEBITED":
            reason, key = ErrorReason.EXCEEDS_DEBITED, "refundable_units"
            message = f"{units} units of {asset} are more than the {limit} debited and not refunded yet"
        case "INSUFFICIENT_FUNDS":
            reason, key = ErrorReason.INSUFFICIENT_FUNDS, "available_units"
            message = (
                f"hold {hold_id} expired, and of {units} units of {asset} only {limit} are available; "
                "send it again after a top-up"
            )
        case _:
            return _of_hold(ErrorReason.INTERNAL, "internal error", wallet_id, hold_id)
    counts = {"units": str(units), key: str(limit)} if key else {}
    return DrawdownError(reason, message, wallet_id=wallet_id, hold_id=hold_id, asset=asset, **counts)
