from __future__ import annotations

import msgspec
import pytest

from drawdown_server.holds.fingerprint import fingerprint, refund_digest
from drawdown_server.holds.recorded import RecordedDebit, RecordedPart
from drawdown_server.ledger.events import CountedPart, Event, Line, LineKind, SettledAmount
from drawdown_server.ledger.planning import plan
from drawdown_server.ledger.posting import Known, LockedWallet, OutboxEvent, Posting, holds_of
from drawdown_server.ledger.rows import SettledHoldAmount, decode_amounts, decode_refunds
from drawdown_server.ledger.settlement import KnownHold, begins_hold
from ledgers import NOW_MS, TENANT, commit_event, refund_event

KEY = (TENANT, "w", "h", NOW_MS)
WALLETS = {(TENANT, "w"): LockedWallet(partition=0, change_number=0, applied_change_number=0, sequence=0)}
DAY = "|USD|DAY|20000"


def debit(units: int, grant_id: str = "g", asset: str = "USD") -> Line:
    return Line(LineKind.DEBIT, asset, units, grant_id)


def report(
    sequence: int, lines: list[Line], total: int, *, uncollected: int = 0, final: bool = False, usage: int = 0
) -> Event:
    return commit_event(
        "w",
        sequence,
        lines,
        hold_id="h",
        amounts=[SettledAmount("USD", 50, total, uncollected)],
        final=final,
        cap_usage={DAY: usage} if usage else None,
    )


STREAM = [
    report(1, [debit(10)], 10, usage=10),
    report(2, [debit(5), debit(3, "second")], 18, usage=8),
    report(3, [debit(2, "second"), debit(4, "")], 24, usage=6),
    refund_event(
        "w",
        4,
        "h",
        [Line(LineKind.REFUND, "USD", 4, ""), Line(LineKind.REFUND, "USD", 3, "second")],
        refund_id="r1",
        cap_usage={DAY: -7},
    ),
    report(5, [debit(1)], 25, uncollected=7, final=True, usage=1),
    refund_event("w", 6, "h", [Line(LineKind.REFUND, "USD", 1, "g")], refund_id="r2", cap_usage={DAY: -1}),
]
AMOUNT = SettledHoldAmount("USD", 50, 25, 7, 8, [RecordedDebit("g", 15), RecordedDebit("second", 2)], {DAY: 17})


def planned(events: list[Event], sequence: int = 0, hold: KnownHold | None = None) -> Posting:
    items = [OutboxEvent(0, 1, f"1-{number}", b"", event) for number, event in enumerate(events, start=1)]
    wallets = {key: wallet._replace(sequence=sequence) for key, wallet in WALLETS.items()}
    holds = {KEY: hold} if hold is not None and KEY in holds_of(items) else {}
    posting = plan(items, Known(wallets, holds=holds))
    assert posting.dead_letters == []
    return posting


def known(posting: Posting) -> KnownHold:
    """What Postgres would have after this batch."""
    record = posting.holds[KEY]
    assert record.settle_time is not None
    return KnownHold(
        decode_amounts(record.amounts_json()),
        decode_refunds(record.refunds_json()),
        record.first_sequence,
        record.final,
        record.late,
        record.settle_time,
    )


@pytest.mark.parametrize("batches", [[6], [1] * 6, [1, 5], [3, 1, 2], [2, 4], [5, 1]])
def test_a_stream_with_refunds_is_one_record_however_it_is_cut_into_batches(batches: list[int]) -> None:
    at, hold, events, usage = 0, None, [], 0
    for size in batches:
        posting = planned(STREAM[at : at + size], at, hold)
        assert posting.holds[KEY].is_new == (at == 0)
        at += size
        hold = known(posting)
        events += [sequence for *_, sequence in posting.hold_events]
        usage += posting.cap_usage[TENANT, "w", DAY]
    assert hold is not None
    assert hold.amounts == [AMOUNT]
    assert (hold.first_sequence, hold.final, hold.late) == (1, True, False)
    assert hold.refunds == [("r1", refund_digest({"USD": 7})), ("r2", refund_digest({"USD": 1}))]
    assert (events, usage) == ([2, 3, 4, 5, 6], 17)


@pytest.mark.parametrize(
    ("event", "begins"),
    [
        (commit_event("w", 1), True),
        (commit_event("w", 1, [debit(3), debit(4, asset="EUR")]), True),
        (report(1, [debit(3), debit(4, "second")], 7), True),
        (report(2, [debit(3)], 7), False),
        (report(2, [], 7, final=True), False),
        (report(2, [], 0, uncollected=1), False),  # perhaps: then it is looked for in vain
    ],
)
def test_the_first_commit_of_a_hold_is_known_by_its_totals(event: Event, begins: bool) -> None:
    assert begins_hold(event) is begins


def test_what_is_empty_takes_no_room() -> None:
    record = planned([commit_event("w", 1, hold_id="h", amounts=[SettledAmount("USD", 5, 0, 0)])]).holds[KEY]
    assert record.amounts_json() == '[{"asset":"USD","authorized":5,"debited":0,"uncollected":0}]'
    assert record.refunds_json() == "[]"


def test_the_digest_of_a_refund_is_that_of_its_lines() -> None:
    assert refund_digest({"USD": 3, "EUR": 5}) == refund_digest({"EUR": 5, "USD": 3, "TOK": 0})
    assert refund_digest({"USD": 3}) != refund_digest({"USD": 4})
    assert refund_digest({"USD": 3, "EUR": 5}) == fingerprint({"amounts": "EUR=5 USD=3"})


def test_a_counter_that_nobody_can_read_is_a_dead_letter() -> None:
    event = msgspec.structs.replace(commit_event("w", 1, cap_usage={"nonsense": 1}))
    posting = plan([OutboxEvent(0, 1, "1-1", b"", event)], Known(WALLETS))
    assert [letter.error for letter in posting.dead_letters] == ["nonsense is no counter of a cap"]


@pytest.mark.parametrize("batches", [[3], [1, 1, 1], [2, 1]])
def test_parts_are_as_the_last_commit_says_and_a_refund_takes_from_the_last(batches: list[int]) -> None:
    both = [CountedPart([], 5), CountedPart([DAY], 3)]
    raised = SettledAmount("USD", 8, 8, 0, both)
    stream = [
        report(1, [debit(5)], 5),
        commit_event("w", 2, [debit(3)], hold_id="h", amounts=[raised], cap_usage={DAY: 3}),
        refund_event("w", 3, "h", [Line(LineKind.REFUND, "USD", 4, "g")], refund_id="r1", cap_usage={DAY: -3}),
    ]
    at, hold = 0, None
    for size in batches:
        hold = known(planned(stream[at : at + size], at, hold))
        at += size
    assert hold is not None
    assert hold.amounts == [SettledHoldAmount("USD", 8, 8, 0, 4, [RecordedDebit("g", 4)], {}, [RecordedPart([], 4)])]
