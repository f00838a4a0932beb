"""The tenant's labels as one text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping


def labels_text(labels: Mapping[str, str]) -> str:
    """Labels as requests and events carry them: a JSON object with sorted keys, "" for none."""
    return msgspec.json.encode(dict(sorted(labels.items()))).decode() if labels else ""


def labels_of(text: str) -> dict[str, str]:
    """The labels in such a text."""
    return msgspec.json.decode(text, type=dict[str, str]) if text else {}
