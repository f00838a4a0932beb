from __future__ import annotations

import msgspec
import pytest

from drawdown_server.holds.messages import Change, GrantChange
from drawdown_server.holds.model import Cap, CapMode, CapWindow, GrantSource
from drawdown_server.ledger.events import Event, EventKind, Line, LineKind, encode
from drawdown_server.ledger.planning import plan
from drawdown_server.ledger.posting import Known, KnownGrant, LockedWallet, OutboxEvent, Posting, read_event
from ledgers import TENANT, change_event, commit_event

KEY = (TENANT, "w")
WALLET = LockedWallet(partition=0, change_number=3, applied_change_number=1, sequence=5)
GRANTS = {
    (TENANT, "w", "g2"): KnownGrant("USD", 100, "TOP_UP", 2, live=False),
    (TENANT, "w", "g3"): KnownGrant("USD", 1, "TOP_UP", 1, live=True),
}
GRANT_LINE = Line(LineKind.GRANT, "USD", 100, "g2")


def item(event: Event, number: int = 1, error: str = "") -> OutboxEvent:
    return OutboxEvent(0, 1, f"1-{number}", encode(event), event, error)


def planned(*events: Event) -> Posting:
    return plan([item(event, n) for n, event in enumerate(events, start=1)], Known({KEY: WALLET}, GRANTS))


@pytest.mark.parametrize(
    ("kind", "grant_id", "accounts", "balance", "grant_or_debt"),
    [
        (LineKind.GRANT, "g2", ("funding:top_up", "wallet:w"), (100, 0, 0), 0),
        (LineKind.DEBIT, "g2", ("wallet:w", "revenue"), (0, 100, 0), -100),
        (LineKind.DEBIT, "", ("debt:w", "revenue"), (0, 100, 0), 100),
        (LineKind.EXPIRE, "g2", ("wallet:w", "breakage"), (0, 0, 100), -100),
        (LineKind.REFUND, "g2", ("revenue", "wallet:w"), (0, -100, 0), 100),
        (LineKind.REFUND, "", ("revenue", "debt:w"), (0, -100, 0), -100),
        (LineKind.VOID, "g2", ("wallet:w", "funding:top_up"), (-100, 0, 0), -100),
        (LineKind.ADJUST, "g2", ("adjustments", "wallet:w"), (100, 0, 0), 100),
    ],
)
def test_each_kind_of_line(
    kind: LineKind, grant_id: str, accounts: tuple[str, str], balance: tuple[int, int, int], grant_or_debt: int
) -> None:
    posting = planned(change_event("w", 6, 2, EventKind.GRANT, [Line(kind, "USD", 100, grant_id)]))
    assert not posting.dead_letters
    assert posting.entries[0][7:9] == accounts
    delta = posting.balances[(*KEY, "USD")]
    assert (delta.granted, delta.debited, delta.expired) == balance
    if grant_id:
        assert posting.grants.get((*KEY, grant_id, "USD"), 0) == grant_or_debt
        assert delta.debt == 0
    else:
        assert (delta.debt, posting.grants) == (grant_or_debt, {})
    # Settled funds and what backs them change alike, whatever the line.
    backed = -delta.debt + (100 if kind is LineKind.GRANT else sum(posting.grants.values()))
    assert delta.granted - delta.debited - delta.expired == backed


def test_a_grant_that_repays_debt_leaves_the_balance_as_a_grant_does() -> None:
    lines = [GRANT_LINE, Line(LineKind.REPAY, "USD", 30, "g2")]
    posting = planned(change_event("w", 6, 2, EventKind.GRANT, lines))
    delta = posting.balances[(*KEY, "USD")]
    assert (delta.granted, delta.debited, delta.debt, posting.grants[(*KEY, "g2", "USD")]) == (100, 0, -30, -30)
    assert [entry[7:9] for entry in posting.entries] == [("funding:top_up", "wallet:w"), ("wallet:w", "debt:w")]


def time_event(sequence: int, lines: list[Line], hold_id: str = "") -> Event:
    event = change_event("w", sequence, 0, EventKind.TIME, lines)
    return msgspec.structs.replace(event, hold_id=hold_id)


def test_a_grant_for_later_becomes_money_with_a_time_event() -> None:
    posting = planned(change_event("w", 6, 2, EventKind.GRANT), time_event(7, [GRANT_LINE]))
    assert not posting.dead_letters
    assert posting.balances[(*KEY, "USD")].granted == 100
    assert posting.lives[(*KEY, "g2")].live


def test_what_a_hold_gave_back_to_a_grant_that_is_over_is_found_by_the_hold() -> None:
    posting = planned(time_event(6, [Line(LineKind.EXPIRE, "USD", 4, "g1")], hold_id="h"))
    assert posting.hold_events == [(*KEY, "h", 6)]
    assert posting.holds == {}


def changes(*contents: Change) -> Posting:
    """Plan the events of changes 2, 3, ..."""
    events = [
        item(change_event("w", 6 + n, change.change_number, EventKind(change.kind)), n)
        for n, change in enumerate(contents)
    ]
    wallet = WALLET._replace(change_number=10)
    return plan(events, Known({KEY: wallet}, changes={(*KEY, change.change_number): change for change in contents}))


def grant_change(expire_ms: int = 0) -> GrantChange:
    return GrantChange("g2", "USD", 100, 0, GrantSource.TOP_UP, 0, expire_ms, 1, "")


def test_changes_are_copied_as_they_are_applied() -> None:
    cap = Cap("key:*", "USD", CapWindow.DAY, 5, CapMode.ENFORCE)
    other = Cap("", "USD", CapWindow.DAY, 5, CapMode.ENFORCE)
    posting = changes(
        Change(2, "CAP", cap=cap),
        Change(3, "CAP", cap=other),
        Change(4, "CAP_REMOVAL", cap=cap),
        Change(5, "OVERDRAFT", asset="USD", limit=7),
        Change(6, "OVERDRAFT", asset="USD", limit=0),
        Change(7, "EXPIRY", grant=grant_change(expire_ms=9)),
        Change(8, "VOID", grant=grant_change()),
    )
    assert not posting.dead_letters
    assert posting.caps == {(*KEY, "key:*", "USD", "DAY"): (4, None), (*KEY, "", "USD", "DAY"): (3, other)}
    assert posting.balances[(*KEY, "USD")].overdraft_limit == 0
    life = posting.lives[(*KEY, "g2")]
    assert (life.expire_ms, life.void, life.live) == (9, True, False)


def test_an_event_that_says_another_kind_than_its_change_is_a_dead_letter() -> None:
    events = [item(change_event("w", 6, 2, EventKind.VOID))]
    for known, kind in ({}, "None"), ({(*KEY, 2): Change(2, "OVERDRAFT", asset="USD", limit=7)}, "OVERDRAFT"):
        posting = plan(events, Known({KEY: WALLET}, changes=known))
        assert [letter.error for letter in posting.dead_letters] == [f"change 2 is {kind}, the event says VOID"]
        assert posting.wallets[KEY].applied_change_number == 2


def test_deltas_of_a_batch_are_added_up_per_row() -> None:
    debit = Line(LineKind.DEBIT, "USD", 3, "g1")
    posting = planned(*(commit_event("w", number, [debit]) for number in range(6, 16)))
    assert posting.balances[(*KEY, "USD")].debited == 30
    assert posting.grants == {(*KEY, "g1", "USD"): -30}
    assert posting.wallets[KEY].sequence == 15
    assert (len(posting.entries), len(posting.holds)) == (10, 10)


def test_a_commit_of_zero_settles_its_hold_and_uses_a_number_up() -> None:
    posting = planned(commit_event("w", 6))
    assert (posting.entries, len(posting.holds), posting.wallets[KEY].sequence) == ([], 1, 6)


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (commit_event("w", 7), "gap in the wallet's sequence: event 7 after 5"),
        (commit_event("w", 5), "repeat in the wallet's sequence: event 5 after 5"),
        (commit_event("other", 1), "wallet other does not exist"),
        (commit_event("w", 6, hold_id=""), "a COMMIT event without a hold"),
        (change_event("w", 6, 2, EventKind.TIME), "a TIME event with a change number"),
        (change_event("w", 6, 0, EventKind.REFUND), "a REFUND event without a hold"),
        (time_event(6, [Line(LineKind.EXPIRE, "USD", 1, "")]), "a EXPIRE line without a grant"),
        (time_event(6, [Line(LineKind.REPAY, "USD", 1, "")]), "a REPAY line without a grant"),
        (time_event(6, [Line(LineKind.GRANT, "USD", 1, "g3")]), "grant g3 is in the ledger already"),
        (
            time_event(6, [Line(LineKind.GRANT, "USD", 99, "g2")]),
            "grant g2 is 100 units by change 2, the event says 99 by change 2",
        ),
        (change_event("w", 6, 3, EventKind.STATE), "change 3 applied after change 1"),
        (change_event("w", 6, 0, EventKind.STATE), "a STATE event without a change number"),
        (change_event("w", 6, 1, EventKind.STATE), "change 1 applied after change 1"),
        (
            change_event("w", 6, 2, EventKind.GRANT, [Line(LineKind.GRANT, "USD", 99, "g2")]),
            "grant g2 is 100 units by change 2, the event says 99 by change 2",
        ),
        (change_event("w", 6, 2, EventKind.GRANT, [Line(LineKind.GRANT, "EUR", 100, "g2")]), "no grant g2 of EUR"),
        (change_event("w", 6, 2, EventKind.GRANT, [Line(LineKind.GRANT, "USD", 100, "g9")]), "no grant g9 of USD"),
    ],
)
def test_an_event_that_cannot_be_right_is_a_dead_letter(event: Event, error: str) -> None:
    posting = planned(event)
    assert [letter.error for letter in posting.dead_letters] == [error]
    assert (posting.entries, posting.holds, posting.balances, posting.grants) == ([], {}, {}, {})


def test_a_dead_letter_uses_its_numbers_up_so_that_the_next_event_is_no_gap() -> None:
    unknown = Line(LineKind.GRANT, "USD", 100, "g9")
    posting = planned(
        commit_event("w", 6),
        change_event("w", 7, 2, EventKind.GRANT, [unknown]),
        change_event("w", 8, 3, EventKind.STATE),
        commit_event("w", 11),
        commit_event("w", 12),
        commit_event("w", 12),
        commit_event("w", 13),
    )
    assert [letter.wallet_sequence for letter in posting.dead_letters] == [7, 11, 12]
    assert (posting.wallets[KEY].sequence, posting.wallets[KEY].applied_change_number) == (13, 3)
    assert [hold.wallet_sequence for hold in posting.holds.values()] == [6, 12, 13]


def test_an_unknown_change_does_not_move_the_wallet_past_its_newest_change() -> None:
    wallet = WALLET._replace(applied_change_number=3)
    posting = plan([item(change_event("w", 6, 4, EventKind.STATE))], Known({KEY: wallet}))
    assert posting.dead_letters[0].error == "change 4 is unknown, the newest is 3"
    assert posting.wallets[KEY].applied_change_number == 3


def test_an_event_in_the_wrong_partition_is_a_dead_letter() -> None:
    posting = plan([item(commit_event("w", 6))], Known({KEY: WALLET._replace(partition=1)}))
    assert posting.dead_letters[0].error == "wallet w lives in partition 1"
    assert posting.wallets == {}


def test_what_cannot_be_decoded_keeps_its_bytes() -> None:
    posting = plan([read_event(0, 1, "1-1", b"\xc1\0")], Known({}))
    (letter,) = posting.dead_letters
    assert (letter.raw, letter.tenant_id, letter.wallet_sequence) == (b"\xc1\0", "", 0)
    assert "not an event" in letter.error
