from __future__ import annotations

from base64 import urlsafe_b64encode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawdown_server.errors import InvalidRequestError
from drawdown_server.rpc.paging import decode_token, encode_token

FILTERS = ("entries", "w", "USD", "")


def forged(filters: object, cursor: object) -> str:
    return urlsafe_b64encode(msgspec.msgpack.encode((filters, cursor))).rstrip(b"=").decode()


@given(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**31 - 1)), st.lists(st.text(), max_size=4))
def test_a_token_gives_back_its_cursor(cursor: tuple[int, int], filters: list[str]) -> None:
    token = encode_token(tuple(filters), cursor)
    assert token.isascii()
    assert "=" not in token
    assert decode_token(token, tuple(filters), tuple[int, int], (0, 0)) == cursor


def test_no_token_is_the_first_page() -> None:
    assert decode_token("", FILTERS, tuple[int, int], (0, 0)) == (0, 0)


@given(st.text(min_size=1))
def test_anything_else_is_refused(token: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        decode_token(token, FILTERS, tuple[int, int], (0, 0))
    assert [violation.field for violation in caught.value.violations] == ["page_token"]


@pytest.mark.parametrize(
    "token",
    [
        forged(("entries", "w", "USD", "h"), (1, 1)),
        forged(("holds", "w"), (1, "x")),
        forged(FILTERS, (1,)),
        forged(FILTERS, (1, 1, 1)),
        forged(FILTERS, ("1", 1)),
        forged(FILTERS, (1.5, 1)),
        forged(FILTERS, None),
        forged(None, (1, 1)),
        encode_token(FILTERS, (1, 1))[:-2],
    ],
    ids=["filter", "list", "short", "long", "type", "float", "no cursor", "no filters", "cut"],
)
def test_a_token_of_another_list_or_form_is_refused(token: str) -> None:
    with pytest.raises(InvalidRequestError):
        decode_token(token, FILTERS, tuple[int, int], (0, 0))
