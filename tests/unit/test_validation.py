from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration

from drawdown.v1 import types_pb2
from drawdown_server.errors import ErrorReason, InvalidRequestError
from drawdown_server.holds.model import UNITS_MAX
from drawdown_server.rpc.validation import (
    AMOUNTS_MAX,
    LABELS_MAX,
    PAGE_SIZE_DEFAULT,
    PAGE_SIZE_MAX,
    TTL_MAX_MS,
    TTL_MIN_MS,
    Checks,
)


def fields(checks: Checks) -> list[str]:
    """The fields that broke a rule."""
    try:
        checks.finish()
    except InvalidRequestError as error:
        return [violation.field for violation in error.violations]
    return []


@pytest.mark.parametrize("value", ["a", "Az09._:@/-", "x" * 128, "-", "/", "key:sk_1", "a@b.c/d"])
def test_ids_that_are_fine(value: str) -> None:
    checks = Checks()
    checks.id("id", value)
    assert fields(checks) == []


@pytest.mark.parametrize(
    "value",
    ["", "x" * 129, " ", "a ", " a", "a\n", "\na", "a|b", "{a}", "a\0", "ü", "\uff11", "a*", "a,b", "a\\", "#", "a\t"],
)
def test_ids_that_are_not(value: str) -> None:
    checks = Checks()
    checks.id("id", value)
    assert fields(checks) == ["id"]
    optional = Checks()
    optional.id("id", value, optional=True)
    assert fields(optional) == ([] if value == "" else ["id"])


@pytest.mark.parametrize(("value", "ok"), [
    ("USD", True), ("A", True), ("A" + "_" * 31, True), ("MODEL_TOKENS_1", True),
    ("", False), ("A" * 33, False), ("usd", False), ("1A", False), ("_A", False), ("A B", False), ("A\n", False),
    ("Ä", False), ("A-B", False),
])  # fmt: skip
def test_asset_codes(value: str, ok: bool) -> None:
    checks = Checks()
    checks.asset("asset", value)
    assert fields(checks) == ([] if ok else ["asset"])


@pytest.mark.parametrize(("value", "least", "ok"), [
    (0, 0, True), (0, 1, False), (1, 1, True), (-1, 0, False), (UNITS_MAX, 1, True), (UNITS_MAX + 1, 0, False),
])  # fmt: skip
def test_units(value: int, least: int, ok: bool) -> None:
    checks = Checks()
    checks.units("units", value, least=least)
    assert fields(checks) == ([] if ok else ["units"])


def test_every_violation_of_a_list_of_amounts() -> None:
    checks = Checks()
    checks.amounts(
        "amounts",
        [
            types_pb2.Amount(asset="USD", units=1),
            types_pb2.Amount(asset="usd", units=0),
            types_pb2.Amount(asset="USD", units=-1),
        ],
        least=1,
    )
    assert fields(checks) == [
        "amounts[1].asset", "amounts[1].units", "amounts[2].units", "amounts[2].asset",
    ]  # fmt: skip


@pytest.mark.parametrize("number", [0, AMOUNTS_MAX + 1, 5_000])
def test_the_number_of_amounts_is_one_violation_however_many_there_are(number: int) -> None:
    checks = Checks()
    checks.amounts("amounts", [types_pb2.Amount(asset=f"A{n}", units=1) for n in range(number)], least=1)
    assert fields(checks) == ["amounts"]


def test_a_flood_of_bad_entries_gives_a_bounded_answer() -> None:
    checks = Checks()
    checks.amounts("amounts", [types_pb2.Amount(asset="x", units=-1)] * 5_000, least=1)
    checks.unique_ids("subjects", [""] * 5_000, most=16)
    checks.labels("labels", {str(n): "\n" for n in range(LABELS_MAX + 1)})
    assert len(fields(checks)) < 100


@pytest.mark.parametrize(("ttl", "ms"), [
    (Duration(seconds=1), TTL_MIN_MS),
    (Duration(seconds=86_400), TTL_MAX_MS),
    (Duration(seconds=1, nanos=500_000_000), 1_500),
    (Duration(seconds=1, nanos=999_999), 1_000),
])  # fmt: skip
def test_ttls_that_are_fine(ttl: Duration, ms: int) -> None:
    checks = Checks()
    assert checks.ttl("ttl", ttl) == ms
    assert fields(checks) == []


@pytest.mark.parametrize("ttl", [
    Duration(), Duration(nanos=999_999_999), Duration(seconds=-1), Duration(seconds=86_400, nanos=1_000_000),
    Duration(seconds=1, nanos=-1), Duration(seconds=2**62),
], ids=str)  # fmt: skip
def test_ttls_that_are_not(ttl: Duration) -> None:
    checks = Checks()
    checks.ttl("ttl", ttl)
    assert fields(checks) == ["ttl"]


@pytest.mark.parametrize("value", ["", "x" * 256, "ü 中文 😀", "a|b {c}"])
def test_texts_that_are_fine(value: str) -> None:
    checks = Checks()
    checks.text("text", value)
    assert fields(checks) == []


@pytest.mark.parametrize("value", ["x" * 257, "\n", "\r", "\t", "\0", "\x1b[31m", "\u202e", "\u2028", "\x7f", "\ufeff"])
def test_texts_that_are_not(value: str) -> None:
    checks = Checks()
    checks.text("text", value)
    assert fields(checks) == ["text"]


def test_a_hostile_label_key_is_never_repeated_in_the_answer() -> None:
    for key in ("\x1b[31m", "k" * 65, "a\nb"):
        checks = Checks()
        checks.labels("labels", {key: "\0"})
        with pytest.raises(InvalidRequestError) as caught:
            checks.finish()
        assert key not in str(caught.value)
        assert fields(checks) == ["labels"]


@pytest.mark.parametrize(("value", "size"), [
    (0, PAGE_SIZE_DEFAULT), (1, 1), (PAGE_SIZE_MAX, PAGE_SIZE_MAX), (PAGE_SIZE_MAX + 1, PAGE_SIZE_MAX),
    (2**31 - 1, PAGE_SIZE_MAX),
])  # fmt: skip
def test_page_sizes(value: int, size: int) -> None:
    checks = Checks()
    assert checks.page_size("page_size", value) == size
    assert fields(checks) == []
    checks.page_size("page_size", -1)
    assert fields(checks) == ["page_size"]


def test_enums() -> None:
    known = types_pb2.GrantSource.values()
    for value, required, expected in (
        (0, False, []),
        (0, True, ["e"]),
        (5, True, []),
        (6, False, ["e"]),
        (-1, False, ["e"]),
    ):
        checks = Checks()
        checks.enum("e", value, known, required=required)
        assert fields(checks) == expected


def test_nothing_wrong_is_no_error() -> None:
    checks = Checks()
    checks.finish()
    checks.fail("x", "must be y")
    with pytest.raises(InvalidRequestError) as caught:
        checks.finish()
    assert caught.value.reason is ErrorReason.INVALID_FIELD


@pytest.mark.parametrize(("seconds", "nanos", "is_good"), [
    (0, 1, True), (30, 0, True), (0, 0, False), (-1, 0, False), (30, 1, False), (0, -1, False), (2**40, 0, False),
])  # fmt: skip
def test_a_wait_is_more_than_nothing_and_at_most_30_s(seconds: int, nanos: int, is_good: bool) -> None:
    checks = Checks()
    checks.wait("w", Duration(seconds=seconds, nanos=nanos))
    assert fields(checks) == ([] if is_good else ["w"])
