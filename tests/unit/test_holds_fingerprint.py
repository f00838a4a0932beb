"""Fingerprints: the same content is the same text, and a difference is found in its field."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawdown_server.holds.fingerprint import FIELDS, changed_field, fingerprint

contents = st.dictionaries(st.sampled_from(FIELDS), st.text(max_size=40))


def test_the_fields_keep_their_places() -> None:
    assert FIELDS == ("amounts", "alternatives", "ttl", "subjects", "overage_policy", "expiry_action", "labels")


def test_the_text_never_changes() -> None:
    """Holds in the store outlive a release of the server."""
    assert fingerprint({}) == "......"
    assert fingerprint({"amounts": "USD=5"}) == "KZgl-6tk......"


@given(contents, contents)
def test_it_differs_exactly_when_the_content_does(one: dict[str, str], other: dict[str, str]) -> None:
    full = [{field: content.get(field, "") for field in FIELDS} for content in (one, other)]
    assert (fingerprint(one) == fingerprint(other)) is (full[0] == full[1])
    if full[0] != full[1]:
        first = next(field for field in FIELDS if full[0][field] != full[1][field])
        assert changed_field(fingerprint(one), fingerprint(other)) == first


@given(contents)
def test_it_is_small_plain_text(content: dict[str, str]) -> None:
    text = fingerprint(content)
    assert text.isascii()
    assert len(text) <= 9 * len(FIELDS)
    assert text.count(".") == len(FIELDS) - 1


@pytest.mark.parametrize("field", FIELDS)
def test_an_absent_field_is_an_empty_one_and_differs_from_any_text(field: str) -> None:
    assert fingerprint({field: ""}) == fingerprint({})
    assert changed_field(fingerprint({}), fingerprint({field: " "})) == field


def test_a_field_that_only_a_newer_release_knows_is_named_as_the_last_one() -> None:
    known = fingerprint({"amounts": "USD=5"})
    assert changed_field(known, known + ".x1Yz") == FIELDS[-1]
