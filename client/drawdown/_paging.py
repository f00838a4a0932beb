"""From page to page: the one decision that both clients share."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import grpc

from drawdown._exceptions import InternalError

if TYPE_CHECKING:
    from drawdown._types import Page

Item = TypeVar("Item")


def next_token(page: Page[Item], token: str) -> str | None:
    """The token of the page after this one, None after the last. A server that goes in a circle is an error."""
    if not page.next_page_token:
        return None
    if page.next_page_token == token:
        raise InternalError("the server gave the same page twice", code=grpc.StatusCode.INTERNAL)
    return page.next_page_token
