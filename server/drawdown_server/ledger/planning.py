"""What a batch of events does to the ledger: pure, no input or output.

``plan`` turns events plus what Postgres knows of their wallets into rows to insert and deltas to add. An event that
cannot be right (``events`` cannot decode it, no such wallet, a gap or a repeat in the wallet's sequence, ...) becomes
a dead letter. It then still uses up its numbers: the wallet's sequence and change number move on to the event's,
so that one poison event does not make all later events of the wallet look like a gap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drawdown_server.ledger.counters import parse_counter
from drawdown_server.ledger.database import from_ms
from drawdown_server.ledger.events import USAGE, Event, EventKind, LineKind
from drawdown_server.ledger.lines import FUNDING, REVENUE, WITHOUT_GRANT, accounts, add_to_balance, wallet_account
from drawdown_server.ledger.posting import CONTENT_NEEDED, Numbers, Posting, dead_letter, hold_key
from drawdown_server.ledger.settlement import HoldRecord

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from drawdown_server.holds.messages import Change
    from drawdown_server.ledger.posting import GrantKey, Known, KnownGrant, LockedWallet, OutboxEvent
    from drawdown_server.ledger.settlement import HoldKey, KnownHold


def plan(events: Sequence[OutboxEvent], known: Known) -> Posting:
    """What these events, in this order, do to the ledger."""
    posting = Posting()
    for item in events:
        event = item.event
        if event is None:
            posting.dead_letters.append(dead_letter(item, item.error))
            continue
        key = (event.tenant_id, event.wallet_id)
        wallet = known.wallets.get(key)
        if wallet is None or wallet.partition != item.partition:
            where = "does not exist" if wallet is None else f"lives in partition {wallet.partition}"
            posting.dead_letters.append(dead_letter(item, item.error or f"wallet {event.wallet_id} {where}"))
            continue
        numbers = posting.wallets.get(key)
        if numbers is None:
            numbers = posting.wallets[key] = Numbers(wallet)
        error = item.error or _why_misplaced(event, wallet, numbers) or _why_wrong(posting, event, known)
        numbers.sequence = max(numbers.sequence, event.wallet_sequence)
        if event.change_number > numbers.applied_change_number:
            numbers.applied_change_number = min(event.change_number, wallet.change_number)
        if error:
            posting.dead_letters.append(dead_letter(item, error))
        else:
            _post(posting, item, event, known)
    return posting


def _why_misplaced(event: Event, wallet: LockedWallet, numbers: Numbers) -> str:
    """Why the event does not follow what is recorded of its wallet; empty when it does."""
    if event.wallet_sequence != numbers.sequence + 1:
        what = "gap" if event.wallet_sequence > numbers.sequence else "repeat"
        return f"{what} in the wallet's sequence: event {event.wallet_sequence} after {numbers.sequence}"
    if event.kind in USAGE:
        if event.change_number:
            return f"a {event.kind} event with a change number"
    elif not event.change_number:
        return f"a {event.kind} event without a change number"
    elif event.change_number != numbers.applied_change_number + 1:
        return f"change {event.change_number} applied after change {numbers.applied_change_number}"
    elif event.change_number > wallet.change_number:
        return f"change {event.change_number} is unknown, the newest is {wallet.change_number}"
    return ""


def _why_wrong(posting: Posting, event: Event, known: Known) -> str:
    """Why the event cannot be right by itself, or with what it names; empty when it can."""
    if event.kind in _HOLDS:
        if not (event.hold_id and event.hold_create_ms):
            return f"a {event.kind} event without a hold"
    elif event.kind in CONTENT_NEEDED:
        change = known.changes.get((event.tenant_id, event.wallet_id, event.change_number))
        kind = None if change is None else change.kind
        if kind != event.kind:
            return f"change {event.change_number} is {kind}, the event says {event.kind}"
    for delta in event.cap_usage:
        try:
            parse_counter(delta.counter)
        except ValueError as error:
            return str(error)
    if event.kind is EventKind.COMMIT and all(line.kind is LineKind.DEBIT for line in event.lines):
        return ""  # nearly every event there is
    return _why_unfunded(posting, event, known.grants)


def _why_unfunded(posting: Posting, event: Event, grants: Mapping[GrantKey, KnownGrant]) -> str:
    """Why a line does not fit the grant that it names; empty when all do."""
    for line in event.lines:
        if not line.grant_id and line.kind not in WITHOUT_GRANT:
            return f"a {line.kind} line without a grant"
        if line.kind in FUNDING:
            key = (event.tenant_id, event.wallet_id, line.grant_id)
            grant = grants.get(key)
            if grant is None or grant.asset != line.asset:
                return f"no grant {line.grant_id} of {line.asset}"
            if line.kind is LineKind.GRANT:
                # One that became effective later comes without the number of its change.
                number = event.change_number or grant.change_number
                if (grant.units, grant.change_number) != (line.units, number):
                    return (
                        f"grant {line.grant_id} is {grant.units} units by change {grant.change_number}, "
                        f"the event says {line.units} by change {number}"
                    )
                if grant.live or (key in posting.lives and posting.lives[key].live):
                    return f"grant {line.grant_id} is in the ledger already"
    return ""


def _post(posting: Posting, item: OutboxEvent, event: Event, known: Known) -> None:
    """Add one good event."""
    occurred = from_ms(event.time_ms)
    _post_lines(posting, item, event, known.grants, occurred)
    key = (event.tenant_id, event.wallet_id)
    for delta in event.cap_usage:
        counter = (*key, delta.counter)
        posting.cap_usage[counter] = posting.cap_usage.get(counter, 0) + delta.units
    if event.kind in _HOLDS:
        _post_hold(posting, event, known.holds, occurred)
    elif event.kind in CONTENT_NEEDED:
        _post_change(posting, event, known.changes[(*key, event.change_number)])
    elif event.hold_id:
        posting.hold_events.append((*key, event.hold_id, event.wallet_sequence))


def _post_lines(
    posting: Posting,
    item: OutboxEvent,
    event: Event,
    grants: Mapping[GrantKey, KnownGrant],
    occurred: datetime | None,
) -> None:
    tenant_id, wallet_id = event.tenant_id, event.wallet_id
    labels = event.labels or "{}"
    account = wallet_account(wallet_id)
    for number, line in enumerate(event.lines, start=1):
        key = (tenant_id, wallet_id, line.grant_id)
        if line.kind is LineKind.DEBIT and line.grant_id:  # nearly every line there is
            debit_account, credit_account = account, REVENUE
        else:
            sources = {line.grant_id: grants[key].source} if line.kind in FUNDING else {}
            debit_account, credit_account = accounts(line, wallet_id, sources)
        posting.entries.append(
            (
                tenant_id,
                wallet_id,
                event.wallet_sequence,
                number,
                line.kind,
                line.asset,
                line.units,
                debit_account,
                credit_account,
                line.grant_id,
                event.hold_id,
                event.subjects,
                labels,
                occurred,
                item.partition,
                item.epoch,
                item.stream_id,
            )
        )
        spent = add_to_balance(posting.delta((tenant_id, wallet_id, line.asset)), line)
        if spent:
            grant = (*key, line.asset)
            posting.grants[grant] = posting.grants.get(grant, 0) - spent
        elif line.kind is LineKind.GRANT:
            posting.life(key).live = True


def _post_hold(posting: Posting, event: Event, holds: Mapping[HoldKey, KnownHold], occurred: datetime | None) -> None:
    """Add a COMMIT or REFUND to the record of its hold."""
    key = hold_key(event)
    record = posting.holds.get(key)
    if record is None:
        known = holds.get(key)
        record = posting.holds[key] = HoldRecord(event, known, occurred)
        is_first = known is None
    else:
        is_first = False
    if not is_first:
        posting.hold_events.append((event.tenant_id, event.wallet_id, event.hold_id, event.wallet_sequence))
    if event.kind is EventKind.COMMIT:
        record.commit(event, occurred)
    else:
        record.refund(event)


def _post_change(posting: Posting, event: Event, change: Change) -> None:
    """Keep the copies of what is in force as of the last applied change."""
    key = (event.tenant_id, event.wallet_id)
    if change.grant is not None:
        life = posting.life((*key, change.grant.grant_id))
        if event.kind is EventKind.VOID:
            life.void = True
        else:
            life.expire_ms = change.grant.expire_ms
    elif change.cap is not None:
        cap = change.cap
        new = cap if event.kind is EventKind.CAP else None
        posting.caps[(*key, cap.subject, cap.asset, cap.window)] = (change.change_number, new)
    else:
        posting.delta((*key, change.asset)).overdraft_limit = change.limit


_HOLDS: Final = frozenset({EventKind.COMMIT, EventKind.REFUND})
"""Kinds that change what the ledger remembers of a hold."""
